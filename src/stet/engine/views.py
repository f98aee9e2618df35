"""The view of the cache for one pass: where its keys go, and which rows are attended together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.core.tensors import upload
from stet.engine.attention import CacheView, Span
from stet.engine.kv_cache import KVCache
from stet.engine.masks import AlignedMasks
from stet.engine.spans import divide
from stet.kernels.attention import NativePass


@dataclass(frozen=True, slots=True)
class Place:
    """The rows of a batch in a cache.

    Attributes:
        cache: the model's cache.
        masks: masks for rows that all end at the same slot.
        slots: [S] int64, 0 .. S - 1.
        rows: B cache rows, in the order of the batch.
        native: see `LoadedModel`.
    """

    cache: KVCache
    masks: AlignedMasks
    slots: Tensor
    rows: list[int]
    native: int = 0


def view_of(
    place: Place,
    width: int,
    starts: Sequence[int],
    counts: Sequence[int] | None,
    ends: Sequence[int],
    cost: int,
) -> tuple[CacheView, Tensor]:
    """Make the view of the cache for a pass, and its position ids, [B or 1, T].

    Args:
        place: the rows in the cache.
        width: T, tokens per row, pads included.
        starts: position of each row's first token.
        counts: how many of each row's tokens are true; None: all.
        ends: position after each row's last true token.
        cost: slots that may be read in vain before one more span pays.
    """
    view, positions = _view(place, width, starts, counts, ends, cost)
    if width <= place.native:
        view.native = NativePass(place.rows, starts, ends, width)
    return view, positions


def _view(
    place: Place,
    width: int,
    starts: Sequence[int],
    counts: Sequence[int] | None,
    ends: Sequence[int],
    cost: int,
) -> tuple[CacheView, Tensor]:
    batch, first, start, end = len(place.rows), place.rows[0], starts[0], ends[0]
    if end == start + width and (
        batch == 1
        or (
            all(row == first + b for b, row in enumerate(place.rows))
            and all(s == start for s in starts)
            and all(e == end for e in ends)
        )
    ):
        # Neighbours at the same positions: their keys fill a rectangle, and one mask serves all.
        last = first + batch
        read = place.cache.cut(first, last, 0, end)
        view = CacheView(
            place.cache.keys,
            place.cache.values,
            [Span(0, batch, first, end, None, aligned=True, read=read)],
            place.masks,
            place.slots,
            written=place.cache.cut(first, last, start, end),
        )
        return view, place.slots[start:end].unsqueeze(0)
    return _view_scattered(place, width, starts, counts, ends, cost)


def _view_scattered(
    place: Place,
    width: int,
    starts: Sequence[int],
    counts: Sequence[int] | None,
    ends: Sequence[int],
    cost: int,
) -> tuple[CacheView, Tensor]:
    """Make the view and the position ids for rows of any places and lengths."""
    cache, slots, rows, device = place.cache, place.slots, place.rows, place.slots.device
    table = upload([rows, list(starts), list(ends)], device)
    where, begins, stops = table.unsqueeze(2).unbind(0)
    positions = begins + slots[:width]
    columns = positions
    if counts is not None and min(counts) < width:
        columns = positions.masked_fill(positions >= stops, cache.capacity)
        positions = torch.minimum(positions, (stops - 1).clamp_(min=0))
    spans = divide(rows, width, starts, ends, positions, cost)
    if len(spans) > 4 and device.type != "cpu":
        # There copying keys costs less than the launches of so many spans.
        whole = Span(0, len(rows), 0, max(1, *ends), positions, aligned=False, gather=table[0])
        spans = [whole]
    for span in spans:
        if span.gather is None:
            span.read = cache.cut(span.row, span.row + span.last - span.first, 0, span.length)
    view = CacheView(
        cache.keys, cache.values, spans, place.masks, slots, rows=where, columns=columns
    )
    return view, positions
