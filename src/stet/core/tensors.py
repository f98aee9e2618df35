"""Small tensor helpers: numbers copied to a device without a wait, positions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Numbers = Sequence[int] | Sequence[float] | Sequence[bool] | Sequence[Sequence[int]]


def upload(values: Numbers, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Make a tensor on `device` of numbers on the host."""
    return move(torch.tensor(values, dtype=dtype), device)


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to `device`.

    A plain copy to a GPU waits for everything that the GPU has yet to do; one from pinned memory
    takes its place in the queue.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True, eq=False)
class TruePlaces:
    """The places of a padded batch that hold something, for work that leaves out the pads.

    Attributes:
        places: [N] int64, ascending, among all places of the batch.
        total: number of all places.
    """

    places: Tensor
    total: int

    @classmethod
    def of(cls, counts: Sequence[int], width: int, device: torch.device) -> TruePlaces | None:
        """The places of B rows padded to a width; None where no pad or nothing else is there.

        Args:
            counts: how much each row holds.
            width: T, so that there are B * T places.
            device: of the batch.
        """
        if not 0 < sum(counts) < width * len(counts):
            return None
        places = [b * width + t for b, count in enumerate(counts) for t in range(count)]
        return cls(upload(places, device), width * len(counts))

    def take(self, padded: Tensor) -> Tensor:
        """What is at these places: [total, ...] to [N, ...]."""
        return padded.index_select(0, self.places)

    def spread(self, packed: Tensor) -> Tensor:
        """Put it back, zeros elsewhere: [N, ...] to [total, ...]."""
        padded = packed.new_zeros(self.total, *packed.shape[1:])
        return padded.index_copy_(0, self.places, packed)


def at(tensor: Tensor, position: Tensor) -> Tensor:
    """Pick one position of each row: [B, T, ...] and [B] to [B, ...]."""
    return tensor[torch.arange(tensor.shape[0], device=tensor.device), position]


def select_last(state: Tensor, counts: Sequence[int] | None) -> Tensor:
    """Select the last true position of each row: [B, T, ...] to [B, 1, ...]."""
    if state.shape[1] == 1:
        return state
    if counts is None:
        return state[:, -1:]
    first = max(counts[0], 1)
    if all(c == first for c in counts):
        return state[:, first - 1 : first]
    return at(state, upload([max(c, 1) - 1 for c in counts], state.device)).unsqueeze(1)


def prefix_length(accepted: Tensor) -> Tensor:
    """How many tokens are accepted before the first rejected one: bool [B, K] to int64 [B]."""
    return accepted.long().cumprod(1).sum(1)
