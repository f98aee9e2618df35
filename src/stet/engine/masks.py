"""Additive masks over the cache: which slots a query may see."""

from __future__ import annotations

import torch
from torch import Tensor

WIDEST = 32
"""Widest pass, in tokens of a row, that is taken for a block: its masks are kept, and it may be
compiled. Wider ones are prefills."""


class AlignedMasks:
    """Masks for rows that all end at the same slot; a shorter length is a slice of a longer one.

    Query t of T may see the slots up to `length - T + t`, so the mask for any length is the right
    end of the mask for the greatest.
    """

    def __init__(self, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = capacity
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._tables: dict[tuple[int, int, int | None], Tensor] = {}

    def get(self, count: int, length: int, groups: int, window: int | None) -> Tensor:
        """The additive mask, [1, 1, groups * count, length], of 0 and -inf."""
        if count > WIDEST:
            return self._make(count, length, groups, window)
        key = (count, groups, window)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = self._make(count, self.capacity, groups, window)
        mask = table[..., self.capacity - length :]
        # Kernels of an accelerator read masks in pieces of 16 bytes, and a slice may begin between.
        return mask if mask.device.type == "cpu" else mask.clone()

    def _make(self, count: int, length: int, groups: int, window: int | None) -> Tensor:
        device = self._like.device
        positions = torch.arange(length - count, length, device=device)[None]
        slots = torch.arange(length, device=device)
        return additive_mask(positions, slots, groups, window, self._like.dtype)


def additive_mask(
    positions: Tensor, slots: Tensor, groups: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """Make the mask of a causal layer over a cache.

    Args:
        positions: [B, T] positions of the queries.
        slots: [S] positions of the keys.
        groups: query heads per key head. The mask is repeated for each, since `attend` folds the
            group into the query length.
        window: a query sees its own position and the `window - 1` before it; None: all of them.
        dtype: dtype of the queries.

    Returns:
        [B, 1, groups * T, S], 0 where a query may look and -inf elsewhere.
    """
    batch, count = positions.shape
    queries = positions[:, None, :].expand(batch, groups, count).reshape(batch, 1, -1, 1)
    hidden = slots > queries
    if window is not None:
        hidden = hidden | (slots <= queries - window)
    return torch.zeros(hidden.shape, dtype=dtype, device=slots.device).masked_fill_(
        hidden, float("-inf")
    )
