"""The view of the cache for one pass: where its keys go, and which rows are attended together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.core.row import Row
from stet.core.tensors import upload
from stet.engine.addresses import Addresses, run_of
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
        rows: B rows, in the order of the batch, which have pages for all that is written.
        native: see `LoadedModel`.
    """

    cache: KVCache
    masks: AlignedMasks
    slots: Tensor
    rows: Sequence[Row]
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
    native = width <= place.native
    run = run_of(place.rows[0]) if len(place.rows) == 1 else None
    if run is not None and ends[0] == starts[0] + width:
        view, positions = _view_run(place, run, starts[0], ends[0], native=native)
    else:
        view, positions = _view_scattered(place, width, starts, counts, ends, cost, native=native)
    if native:
        pages = [row.pages for row in place.rows]
        view.native = NativePass(pages, starts, ends, width)
    return view, positions


def _view_run(
    place: Place, run: int, start: int, end: int, *, native: bool
) -> tuple[CacheView, Tensor]:
    """The view of a single row whose pages are neighbours: its keys are a slice of the cache."""
    cache = place.cache
    spans: list[Span] = []
    if not native:
        spans.append(Span(0, 1, end, None, start=run, read=cache.cut(run, run + end)))
    view = CacheView(
        cache.keys,
        cache.values,
        spans,
        place.masks,
        place.slots,
        written=cache.cut(run + start, run + end),
    )
    return view, place.slots[start:end].unsqueeze(0)


def _view_scattered(
    place: Place,
    width: int,
    starts: Sequence[int],
    counts: Sequence[int] | None,
    ends: Sequence[int],
    cost: int,
    *,
    native: bool,
) -> tuple[CacheView, Tensor]:
    """Make the view and the position ids for rows of any pages and lengths."""
    cache, slots, rows, device = place.cache, place.slots, place.rows, place.slots.device
    begins, stops = upload([list(starts), list(ends)], device).unsqueeze(2).unbind(0)
    addresses = Addresses(rows, device)
    positions = begins + slots[:width]
    places = addresses.written(positions, stops)
    if counts is not None and min(counts) < width:
        positions = torch.minimum(positions, (stops - 1).clamp_(min=0))
    spans: list[Span] = []
    if not native:
        spans = divide(width, starts, ends, positions, cost)
        if len(spans) > 4 and device.type != "cpu":
            # There copying keys costs less than the launches of so many spans.
            spans = [Span(0, len(rows), max(1, *ends), positions)]
        for span in spans:
            run = run_of(rows[span.first]) if span.last == span.first + 1 else None
            if run is not None:
                span.start, span.read = run, cache.cut(run, run + span.length)
            else:
                span.slots = addresses.read(ends, span.length, span.first, span.last)
    view = CacheView(cache.keys, cache.values, spans, place.masks, slots, places=places)
    return view, positions
