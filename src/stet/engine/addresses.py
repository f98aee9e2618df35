"""Where the tokens of a batch of rows are in a cache, as tensors of slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stet.core.row import PAGE, Row
from stet.core.tensors import upload


def slots_of(row: Row) -> list[int]:
    """The slots of a row's pages, in the order of its tokens."""
    return [page * PAGE + offset for page in row.pages for offset in range(PAGE)]


def run_of(row: Row) -> int | None:
    """The slot of a row's first token where its pages are neighbours; else None."""
    pages = row.pages
    if not pages or pages != list(range(pages[0], pages[0] + len(pages))):
        return None
    return pages[0] * PAGE


class Addresses:
    """The pages of B rows, on the device of their cache.

    Args:
        rows: the rows.
        device: of what is computed.
        reach: of how many pages slots are asked for, at least; by default of as many as rows have.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device, reach: int = 1) -> None:
        reach = max(reach, *(len(row.pages) for row in rows))
        # Beyond its end a row begins again, so that nothing is ever read that is not its own.
        table = [
            [*row.pages, *[row.pages[0] if row.pages else 0] * (reach - len(row.pages))]
            for row in rows
        ]
        self._table = upload(table, device) * PAGE
        self._offsets = torch.arange(PAGE, device=device)

    def written(self, positions: Tensor, stops: Tensor) -> Tensor:
        """The slots of new tokens, [B * T]; that of pads is slot 0, which nobody reads.

        Args:
            positions: [B, T] positions of the tokens, those of pads at or beyond `stops`.
            stops: [B, 1], the position after each row's last true token.
        """
        true = positions < stops
        held = torch.where(true, positions, 0)
        slots = self._table.gather(1, held // PAGE) + held % PAGE
        return torch.where(true, slots, 0).flatten()

    def read(self, ends: Sequence[int], length: int, first: int, last: int) -> Tensor:
        """The slots of the first tokens of some rows, [n, length]; after their ends slots repeat.

        Args:
            ends: the position after each row's last token, of all B rows.
            length: how many slots of each.
            first: the first of these rows.
            last: one past their last.
        """
        pages = -(-length // PAGE)
        some = self._table[first:last, :pages]
        slots = (some[:, :, None] + self._offsets).flatten(1)[:, :length]
        own = ends[first:last]
        if min(own) >= length:
            return slots
        stops = upload([max(end, 1) for end in own], slots.device)[:, None]
        within = torch.arange(length, device=slots.device) < stops
        return torch.where(within, slots, some[:, :1])
