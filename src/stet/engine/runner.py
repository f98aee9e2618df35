"""One model with its key/value cache: allocate rows, feed tokens, rewind, fork."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stet.core.errors import CapacityError
from stet.core.head import Shortlist
from stet.core.row import Row, pages_for
from stet.core.tensors import TruePlaces, select_last
from stet.engine.attention import CacheView
from stet.engine.compiling import Compiling
from stet.engine.holding import Holding
from stet.engine.kv_cache import KVCache
from stet.engine.masks import WIDEST, AlignedMasks
from stet.engine.rows import Rows
from stet.engine.views import Place, view_of

if TYPE_CHECKING:
    from stet.core.model import LoadedModel
    from stet.engine.attention_capture import Recorder


Logits = Literal["all", "last", "short", "none"]
"""Of which tokens and positions a pass computes logits, see `Runner.forward`."""

FIRST = 16
"""Pages of each row that a cache on a CPU begins with."""

_MASKED = 256
"""Tokens of a text up to which masks are made at first."""

_WATCHED = 16, 512
"""Tokens of a pass, and of the text up to its end, beyond which it is not timed: much of the time
of a longer one is attention, which depends on the text."""


@dataclass(frozen=True, slots=True)
class Forward:
    """The result of a forward pass.

    Attributes:
        logits: float32; [B, T, V] for `logits="all"`, [B, 1, V] (at each row's last true token)
            for "last", [B, 1, S] of the model's shortlist for "short", [B, 0, V] for "none".
        hidden: [B, T, D] last hidden state, before the head; None unless asked for.
    """

    logits: Tensor
    hidden: Tensor | None = None


class Runner(Holding, Compiling):
    """One model with its key/value cache.

    Attributes:
        vocab_size: V, the width of the logits.
        device: where token ids and logits live.
        dtype: dtype of the computation; logits are always float32.
        max_rows: the most rows that can be allocated.
        max_length: the most tokens a row can hold.
        passes: number of forward passes so far.
        stand_in: the token that is read in place of all tokens above it, for a draft that has no
            embedding for some that the target may write; None where it has one for all.
        timings: tokens and seconds of the latest short passes over a single row, for whoever takes
            them out; None: passes are not timed. Where there is a shortlist, those that use it.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_rows: int,
        max_length: int,
        pages: int | None = None,
        compile: bool = False,
    ) -> None:
        """Make the cache.

        Args:
            model: a model from `load_model`.
            max_rows: the most sequences at a time.
            max_length: the most tokens of a sequence, prompt included.
            pages: the most pages of the cache, which rows share; None: enough for all rows at
                their full length.
            compile: run short passes through `torch.compile`. On a CPU they are compiled in the
                background and passes run without until then; the cache is allocated in full.

        Raises:
            CapacityError: `max_length` is more than the model's context.
        """
        if model.max_length is not None and max_length > model.max_length:
            raise CapacityError(
                f"{model.name} has a context of {model.max_length} tokens, not {max_length}; "
                f"ask for max_length={model.max_length} or less."
            )
        self.model = model
        self.vocab_size = model.vocab_size
        self.stand_in: int | None = None
        self.timings: deque[tuple[int, float]] | None = None
        self.device = model.device
        self.dtype = model.dtype
        self.max_rows = max_rows
        self.max_length = max_length
        self.passes = 0
        most = pages or pages_for(max_rows, max_length)
        first = max_rows * FIRST + 1 if self.device.type == "cpu" else None
        with torch.inference_mode():
            if model.body is not None:
                model.body.reserve(max_length)
            self.cache = KVCache(model.layers, most=most, first=first)
            self._slots = torch.arange(max_length, device=self.device)
        self._masks = AlignedMasks(min(_MASKED, max_length), self.dtype, self.device)
        self._rows = Rows(self.cache, max_rows, max_length, model.name)
        self._compiled = None
        if compile:
            self.start_compiling()
        self._trims = "logits_to_keep" in signature(model.model.forward).parameters
        # In slots: extra slots that are read before one more span is worth its fixed cost (about
        # 12 us per layer on a CPU, launch latency on an accelerator).
        work = max(1, model.layers[0].key_heads * model.layers[0].key_size)
        self._span_cost = 24_000 // work if self.device.type == "cpu" else 4_000_000 // work

    @property
    def shortlist(self) -> Shortlist | None:
        """The tokens that "short" logits are of; None where there are no such logits."""
        return self.model.shortlist if self.stand_in is None else None

    @property
    def skips_pads(self) -> bool:
        """Whether pads of a pass cost nothing but attention, unless it is a compiled one.

        On a CPU a pass over many tokens takes as long as their arithmetic. An accelerator waits for
        the weights meanwhile, and would have to gather and scatter.
        """
        return self.device.type == "cpu" and self.model.foreign is None

    @torch.inference_mode()
    def forward(
        self,
        rows: Sequence[Row],
        tokens: Tensor,
        starts: Sequence[int],
        counts: Sequence[int] | None = None,
        *,
        logits: Logits = "all",
        hidden: bool = False,
        recorder: Recorder | None = None,
    ) -> Forward:
        """Feed tokens and write their keys and values into the cache. Never waits for a device.

        Args:
            rows: B different rows.
            tokens: [B, T] int64 on `device`. Row b's tokens take the positions `starts[b]`,
                `starts[b] + 1`, ... of its sequence and replace what was cached there.
            starts: B positions, `starts[b] <= rows[b].valid`.
            counts: how many of each row's T tokens are true; the others are pads: they leave no
                trace and their logits mean nothing. None: all are true.
            logits: which logits to compute; "short" is for models that have a shortlist.
            hidden: whether to return the last hidden state.
            recorder: is given the queries of the pass; None: they are not captured.

        Returns:
            Logits, and the hidden state if asked for. Afterwards `rows[b].valid` is
            `starts[b] + counts[b]`.

        Raises:
            CapacityError: a row would hold more than `max_length` tokens.
            ValueError: a start beyond the valid tokens, a released row, or a row given twice.
        """
        width = tokens.shape[1]
        began = time.perf_counter()
        if self.stand_in is not None:
            tokens = tokens.clamp(max=self.stand_in)
        ends = self._check(rows, width, starts, counts)
        self._rows.prepare(rows, starts, ends)
        longest = max(ends)
        if longest > self._masks.capacity:
            capacity = min(2 * longest, self.max_length)
            self._masks = AlignedMasks(capacity, self.dtype, self.device)
        result = None
        if self._compiled is not None and width <= WIDEST:
            result = self._run_compiled(
                rows, tokens, starts, counts, ends, logits, hidden, recorder
            )
        if result is None:
            result = self._run(rows, tokens, starts, counts, ends, logits, hidden, recorder)
        for row, end in zip(rows, ends, strict=True):
            row.valid = end
        self.passes += 1
        short = len(rows) == 1 and width <= _WATCHED[0] and longest <= _WATCHED[1]
        usual = logits != "none" if self.shortlist is None else logits == "short"
        if self.timings is not None and short and usual and recorder is None:
            self.timings.append((width, time.perf_counter() - began))
        return result

    def _run_compiled(
        self,
        rows: Sequence[Row],
        tokens: Tensor,
        starts: Sequence[int],
        counts: Sequence[int] | None,
        ends: Sequence[int],
        logits: Logits,
        hidden: bool,
        recorder: Recorder | None,
    ) -> Forward | None:
        """Run the pass through a compiled graph; None where there is none for it (yet)."""
        compiled = self._compiled
        assert compiled is not None
        if compiled.failure is not None:
            self._give_up_compiling()
            return None
        batch, longest = len(rows), max(ends)
        if longest < 2:
            return None
        if batch * longest > sum(ends) + batch * self._span_cost:
            return None
        capture = 0 if recorder is None else recorder.count
        ready = compiled.find(batch, tokens.shape[1], capture)
        if ready is None:
            return None
        state = compiled.run(ready, tokens, rows, starts, ends, recorder)
        return self._finish(state, counts, logits, hidden)

    def _run(
        self,
        rows: Sequence[Row],
        tokens: Tensor,
        starts: Sequence[int],
        counts: Sequence[int] | None,
        ends: Sequence[int],
        logits: Logits,
        hidden: bool,
        recorder: Recorder | None,
    ) -> Forward:
        view, positions = self._view(rows, tokens.shape[1], starts, counts, ends)
        view.recorder = recorder
        if self.skips_pads and counts is not None:
            view.true = TruePlaces.of(counts, tokens.shape[1], self.device)
        body = self.model.body
        if body is None or self.model.head is None:
            return self._whole(tokens, positions, view, counts, logits, hidden)
        return self._finish(body(tokens, positions, view), counts, logits, hidden)

    def _check(
        self,
        rows: Sequence[Row],
        width: int,
        starts: Sequence[int],
        counts: Sequence[int] | None,
    ) -> list[int]:
        """Check the arguments of `forward`; return the rows' lengths after the pass."""
        ends: list[int] = []
        for b, row in enumerate(rows):
            start = starts[b]
            count = width if counts is None else counts[b]
            if not row.live:
                raise ValueError("a row was released before")
            if not 0 <= start <= row.valid or not 0 <= count <= width:
                raise ValueError(
                    f"a row holds {row.valid} valid tokens; cannot feed {count} of {width} tokens "
                    f"from position {start}"
                )
            ends.append(start + count)
        if len(rows) > 1 and len(set(map(id, rows))) < len(rows):
            raise ValueError("a row was given twice in one batch")
        return ends

    def _view(
        self,
        rows: Sequence[Row],
        width: int,
        starts: Sequence[int],
        counts: Sequence[int] | None,
        ends: Sequence[int],
    ) -> tuple[CacheView, Tensor]:
        """The view of the cache for a pass, and its position ids, [B or 1, T]."""
        place = Place(self.cache, self._masks, self._slots, rows, self.model.native)
        return view_of(place, width, starts, counts, ends, self._span_cost)

    def _whole(
        self,
        tokens: Tensor,
        positions: Tensor,
        view: CacheView,
        counts: Sequence[int] | None,
        logits: Logits,
        hidden: bool,
    ) -> Forward:
        """Run a model whose head is not known: its own logits; only the last ones if it can."""
        full = counts is None or min(counts) == tokens.shape[1]
        few = self._trims and (logits == "none" or (logits == "last" and full))
        out = self.model.model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=view,
            use_cache=True,
            stet_view=view,
            output_hidden_states=hidden,
            **({"logits_to_keep": 1} if few else {}),
        )
        scores: Tensor = out.logits[..., : self.vocab_size]
        if logits == "none":
            scores = scores[:, :0]
        elif logits == "last":
            scores = scores[:, -1:] if few else select_last(scores, counts)
        return Forward(scores.float(), out.hidden_states[-1] if hidden else None)

    def _finish(
        self,
        state: Tensor,
        counts: Sequence[int] | None,
        logits: Logits,
        hidden: bool,
    ) -> Forward:
        head = self.model.head
        assert head is not None
        kept = state if hidden else None
        if logits == "none":
            shape = (state.shape[0], 0, self.vocab_size)
            return Forward(state.new_empty(shape, dtype=torch.float32), kept)
        compute: Callable[[Tensor], Tensor] = head
        if logits == "short":
            assert self.model.shortlist is not None
            compute = self.model.shortlist.logits
        if logits != "all":
            state = select_last(state, counts)
            counts = counts and [min(count, 1) for count in counts]
        true = None
        if self.skips_pads and counts is not None:
            true = TruePlaces.of(counts, state.shape[1], self.device)
        if true is None:
            return Forward(compute(state).float(), kept)
        scores = true.spread(compute(true.take(state.flatten(0, 1))).float())
        return Forward(scores.unflatten(0, state.shape[:2]), kept)
