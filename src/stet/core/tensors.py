"""Small tensor helpers: numbers copied to a device without a wait, positions of rows."""

from __future__ import annotations

from collections.abc import Sequence

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
