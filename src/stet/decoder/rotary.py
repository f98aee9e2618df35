"""Rotary positions, looked up in tables of what transformers computes for each position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Rotary:
    """The cosines and sines of a rotary embedding.

    They are asked of the model's own module, once, so that they are its own for every kind of
    scaling that does not depend on the length of a text.

    Attributes:
        compute: positions [1, P] to cosines and sines, [1, P, size] each.
        device: the device of the positions.
    """

    compute: Callable[[Tensor], tuple[Tensor, Tensor]]
    device: torch.device
    _table: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._table = self._made(1)

    def reserve(self, length: int) -> None:
        """Know the positions below `length` from now on."""
        if length > self._table.shape[0]:
            self._table = self._made(length)

    def _made(self, length: int) -> Tensor:
        """The table, [length, 2, 1, size]."""
        cos, sin = self.compute(torch.arange(length, device=self.device)[None])
        first, second = sin.chunk(2, -1)
        # `rotate` swaps the halves of a vector; the rotation also changes the sign of one.
        return torch.stack((cos[0], torch.cat((-first, second), -1)[0]), 1).unsqueeze(2)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of positions [B, T], for `rotate`: [B, 1, T, size] each."""
        cos, sin = self._table[positions].transpose(1, 3).unbind(2)
        return cos, sin


def rotate(heads: Tensor, factors: tuple[Tensor, Tensor]) -> None:
    """Rotate vectors by their positions, in place.

    Args:
        heads: [B, heads, T, size]; what is beyond the size of the rotation stays as it is.
        factors: from `Rotary.at`.
    """
    cos, sin = factors
    size = cos.shape[-1]
    if size < heads.shape[-1]:
        heads = heads[..., :size]
    swapped = heads.roll(size // 2, -1)
    heads.mul_(cos).addcmul_(swapped, sin)
