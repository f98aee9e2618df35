"""The memory that a pair needs: weights, caches and workspace, before the caches are allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch
from pydantic import ByteSize, TypeAdapter, ValidationError

from stet.core.errors import MemoryPlanError, OptionError
from stet.core.model import LoadedModel
from stet.core.row import PAGE, pages_for
from stet.core.wide import LARGE
from stet.engine.prefill import CHUNK, SHARED_CHUNKS
from stet.engine.scoring import most_positions

SPARE_PAGES = 3
"""Pages of each cache that requests leave free where they are scarce: costs are measured there."""

_SHARE = 0.8
"""Of the memory that is free beside the workspace, what caches take that do not all fit."""

_STRETCH = 16
"""Tokens of a step that are drafted in one round."""

_STEP = 129
"""Positions of a step that the target reads, by the policies' default limit."""

_SCORED = 7
"""Float32 rows of the vocabulary in memory for a position while it is verified, at most: the
head's output, raw and edited logits, distributions, and those that a policy computes from them."""

_READ = 5
"""Float32 rows of the vocabulary in memory for a position of a step that the target reads, which
the exact rule verifies."""

_SORTED = 7
"""Further rows where a distribution is cut by sorting, on an accelerator."""

_DRAFTED = 4
"""Float32 rows of the vocabulary that are kept for a drafted token until it is verified: the
distribution it was drawn from and the raw logits, each once more while those of a block are
joined."""

_DRAWN = 6
"""Float32 rows of the vocabulary in memory for each sequence while its next token is drawn."""


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Bytes that one model needs.

    Attributes:
        name: the model's name.
        role: target or draft.
        device: the model's device (that of its first layer, if it is spread over several).
        weights: parameters and buffers; they are in memory already.
        cache: keys and values, when all pages are made.
        workspace: an estimate for activations, masks, logits and distributions of the largest
            pass.
    """

    name: str
    role: str
    device: str
    weights: int
    cache: int
    workspace: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory that a pair needs, and the memory that is free.

    Attributes:
        models: the target, and the draft if there is one.
        max_rows: sequences at a time.
        max_length: tokens per sequence.
        available: bytes that are free now, per device.
        pages: pages of each cache, which the sequences share.
    """

    models: tuple[ModelMemory, ...]
    max_rows: int
    max_length: int
    available: dict[str, int]
    pages: int

    @property
    def tokens(self) -> int:
        """Tokens of all sequences together that each cache has room for."""
        return (self.pages - 1) * PAGE

    @property
    def total(self) -> int:
        """Bytes of everything, weights included."""
        return sum(m.weights + m.cache + m.workspace for m in self.models)

    def needed(self, device: str) -> int:
        """Bytes still to be allocated on a device: caches and workspace."""
        return sum(m.cache + m.workspace for m in self.models if m.device == device)

    def describe(self) -> list[list[str]]:
        """Rows of a table: model, use, size; the first row is the header."""
        rows = [["model", "use", "size"]]
        for m in self.models:
            label = f"{m.role} ({m.name})"
            rows.append([label, "weights", readable(m.weights)])
            rows.append([label, f"cache, {self.tokens:,} tokens", readable(m.cache)])
            rows.append([label, "workspace", readable(m.workspace)])
        rows.append(["", "total", readable(self.total)])
        for device, free in self.available.items():
            rows.append(["", f"still needed on {device}", readable(self.needed(device))])
            rows.append(["", f"available on {device}", readable(free)])
        return rows

    def check(self) -> None:
        """Refuse a plan that does not fit into memory.

        Raises:
            MemoryPlanError: not even one sequence of `max_length` tokens fits, or what was asked
                for does not; the message says what would.
        """
        for device, free in self.available.items():
            needed = self.needed(device)
            if needed <= free:
                continue
            fixed = sum(m.workspace for m in self.models if m.device == device)
            per_page = sum(m.cache for m in self.models if m.device == device) / self.pages
            pages = int(max(0, free - fixed) // per_page) if per_page else 0
            tokens = (pages - 1 - SPARE_PAGES) * PAGE
            if tokens >= PAGE:
                advice = f"use max_length={min(tokens, self.max_length)} or less, or fewer max_rows"
            else:
                advice = "use fewer max_rows, a smaller dtype or smaller models"
            raise MemoryPlanError(
                f"Caches of {self.tokens} tokens and workspace for {self.max_rows} sequences need "
                f"{readable(needed)} on {device}, of which {readable(free)} are free; {advice}."
            )


def plan_memory(
    target: LoadedModel | None,
    draft: LoadedModel | None,
    *,
    max_rows: int,
    max_length: int,
    block: int,
    cache_memory: int | None = None,
) -> MemoryPlan:
    """Compute the memory that a pair needs, without allocating anything.

    The caches get pages for all rows at their full length where there is memory for that, else as
    many as most of the free memory has room for, at least for one row.

    Args:
        target: the target model; None when it is remote.
        draft: the draft model; None when there is none.
        max_rows: sequences at a time.
        max_length: tokens per sequence, prompt included.
        block: the most tokens drafted at a time.
        cache_memory: the most bytes of the caches of both models, on each device; None: see above.

    Raises:
        MemoryPlanError: `cache_memory` is too little for one sequence of `max_length` tokens.
    """
    models = [m for m in (target, draft) if m is not None]
    work = [_workspace(m, max_rows, max_length, block) for m in models]
    devices = [str(m.layers[0].device) for m in models]
    sizes = [PAGE * sum(layer.bytes_per_token for layer in m.layers) for m in models]
    available = {device: available_bytes(device) for device in devices}
    pages = pages_for(max_rows, max_length)
    least = min(pages, pages_for(1, max_length) + SPARE_PAGES)
    for device, free in available.items():
        here = [i for i, own in enumerate(devices) if own == device]
        per_page, fixed = sum(sizes[i] for i in here), sum(work[i] for i in here)
        if cache_memory is not None:
            pages = min(pages, cache_memory // per_page)
        elif pages * per_page + fixed > free:
            pages = min(pages, max(least, int(_SHARE * (free - fixed)) // per_page))
        if pages < least:
            raise MemoryPlanError(
                f"A cache_memory of {readable(cache_memory or 0)} is too little for one sequence "
                f"of {max_length} tokens, which takes {readable(least * per_page)}."
            )
    parts = tuple(
        ModelMemory(
            name=model.name,
            role=model.role,
            device=device,
            weights=model.parameter_bytes,
            cache=pages * size,
            workspace=workspace,
        )
        for model, device, size, workspace in zip(models, devices, sizes, work, strict=True)
    )
    return MemoryPlan(parts, max_rows, max_length, available, pages)


def _workspace(model: LoadedModel, rows: int, length: int, block: int) -> int:
    """Bytes for activations, masks, logits and distributions of the largest pass, at most."""
    text: Any = model.model.config.get_text_config()
    size = model.dtype.itemsize
    width: int = max(
        getattr(text, "intermediate_size", 0) or 0,
        4 * text.hidden_size,
        *(layer.query_heads * layer.key_size for layer in model.layers),
    )
    groups = max(layer.query_heads // layer.key_heads for layer in model.layers)
    kinds = len({layer.window for layer in model.layers})

    def activations(tokens: int) -> int:
        masks = 2 * kinds * tokens * groups * length * size
        return 6 * tokens * width * size + masks

    # Where no kernel reads pages, those of a pass are copied side by side, a layer at a time.
    reads_pages = model.packed and model.native > 0
    beside = 0 if reads_pages else rows * length * max(m.bytes_per_token for m in model.layers)

    # Prompts and blocks are never read at the same time.
    reading = activations(min(SHARED_CHUNKS * CHUNK, rows * length))
    logits = 4 * model.vocab_size
    sorts = _SORTED if model.device.type != "cpu" or model.vocab_size < LARGE else 0
    if model.role == "target":
        most = most_positions(model.vocab_size, model.device)

        def scoring(width: int, held: int) -> int:
            width = min(width, length)
            positions = min(rows * width, max(most, width))
            return activations(positions) + (held + sorts) * positions * logits

        passing = max(scoring(block + 1, _SCORED), scoring(_STEP, _READ))
    else:
        kept = rows * min(max(block, _STRETCH), length)
        passing = activations(2 * rows) + (kept * _DRAFTED + rows * (_DRAWN + sorts)) * logits
    return beside + max(reading, passing)


def available_bytes(device: str | torch.device) -> int:
    """Free memory of a device, in bytes; on the host, memory that can be used without swapping."""
    place = torch.device(device)
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    return int(psutil.virtual_memory().available)


def size_of(given: int | str) -> int:
    """Bytes, given as such or for people: "2GB", "512 MiB".

    Raises:
        OptionError: it is no size.
    """
    try:
        return int(_SIZE.validate_python(given))
    except ValidationError:
        raise OptionError(f'{given!r} is no size in memory; write it like "2GB".') from None


_SIZE = TypeAdapter(ByteSize)


def readable(size: int) -> str:
    """A size for people: "1.5 GB"."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
