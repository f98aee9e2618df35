"""Short passes of a runner through `torch.compile`, compiled in the background.

A pass is padded to one of a few widths, and two graphs per width serve all batches and lengths: one
for a single row, one for two rows or more. Passes whose queries are captured have graphs of their
own, which return the queries too. Sizes that vary (rows, slots read) are carried by the shapes of
tensors and marked dynamic. Until a graph is ready, and for passes it does not fit, the
runner goes on without it.

The head is not part of a graph: over a large vocabulary it is a good part of a pass, and is
computed for the positions that are asked for, not for those that a graph is padded to.
"""

from __future__ import annotations

import threading
import types
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.core.errors import first_line
from stet.core.row import PAGE, Row
from stet.core.tensors import upload
from stet.engine.addresses import Addresses
from stet.engine.attention import CacheView, Span
from stet.engine.attention_capture import CapturedLayer, Recorder
from stet.engine.background import Background
from stet.engine.kv_cache import KVCache
from stet.engine.masks import WIDEST, AlignedMasks

if TYPE_CHECKING:
    from stet.core.model import LoadedModel

WIDTHS = (1, 2, 4, 8, 16, WIDEST)
"""Widths that are compiled: a block may have any length, and each graph takes long to make."""

_ASKED = 3  # how often a width must be asked for before it is compiled
_CUDA_LENGTH = 256  # lengths are rounded up to multiples, since each has a CUDA graph of its own

Step = Callable[..., tuple[Tensor, list[Tensor]]]

Key = tuple[bool, int, int]
"""A graph: whether for several rows, its width, and how many last layers' queries it returns."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A compiled pass.

    Attributes:
        step: the compiled function.
        layers: the layers whose queries it returns.
    """

    step: Step
    layers: list[CapturedLayer]


def _key(batch: int, width: int, capture: int) -> Key:
    """The key of the graph that serves a batch."""
    return batch > 1, next(w for w in WIDTHS if w >= width), capture


class CompiledPasses:
    """The compiled passes of one runner.

    Attributes:
        failure: why compiling was stopped; None while it works.
    """

    def __init__(
        self, model: LoadedModel, cache: KVCache, masks: AlignedMasks, length: int
    ) -> None:
        self.model = model
        self.cache = cache
        self.failure: str | None = None
        self._masks = masks
        self._cuda = model.device.type == "cuda"
        self._length = length
        self._slots = torch.arange(max(length, WIDEST), device=model.device)
        self._windows = any(layer.window is not None for layer in model.layers)
        self._ready: dict[Key, Pass] = {}
        self._requested: set[Key] = set()
        self._asked: Counter[Key] = Counter()
        self._background = Background(self._compile, "stet-compile")
        self._changed = threading.Condition()
        self._stopped = False
        if self._cuda:
            # Captured graphs may then hold on to their addresses; others they would copy each time.
            weights = () if model.body is None else model.body.tensors()
            for tensor in (*cache.keys, *cache.values, *weights):
                torch._dynamo.mark_static_address(tensor)  # pyright: ignore

    @property
    def ready(self) -> int:
        """How many passes are compiled."""
        return len(self._ready)

    @property
    def busy(self) -> bool:
        """Whether passes that were requested are not compiled yet."""
        return self.failure is None and len(self._ready) < len(self._requested)

    def find(self, batch: int, width: int, capture: int = 0) -> Pass | None:
        """Find the compiled pass for a batch, or None; asked often enough, it is compiled.

        Args:
            batch: number of rows.
            width: tokens per row.
            capture: how many last layers' queries the pass has to return.
        """
        key = _key(batch, width, capture)
        ready = self._ready.get(key)
        if ready is None and self.failure is None:
            self._asked[key] += 1
            if self._asked[key] == _ASKED:
                self.request(batch, width, capture)
                return self._ready.get(key)
        return ready

    def request(self, batch: int, width: int, capture: int = 0) -> None:
        """Compile the pass for a batch: in the background on a CPU, at once on CUDA."""
        key = _key(batch, width, capture)
        self._requested.add(key)
        if self._cuda:
            # CUDA graphs belong to the thread that captures them.
            self._compile(key)
            return
        self._background.put(key)

    def stop(self) -> None:
        """Compile nothing further; the passes that are ready stay ready."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._background.stop()

    def wait(self, batch: int, width: int, capture: int = 0, timeout: float | None = None) -> bool:
        """Wait until a requested pass is ready; False if it never will be or time ran out."""
        key = _key(batch, width, capture)

        def decided() -> bool:
            return key in self._ready or self.failure is not None or self._stopped

        with self._changed:
            self._changed.wait_for(decided, timeout)
            return key in self._ready

    def run(
        self,
        compiled: Pass,
        tokens: Tensor,
        rows: Sequence[Row],
        starts: Sequence[int],
        ends: Sequence[int],
        recorder: Recorder | None = None,
    ) -> Tensor:
        """Run a pass.

        Args:
            compiled: the pass, from `find`.
            tokens: [B, T].
            rows: B rows, which have pages for all that is written.
            starts: position of each row's first token.
            ends: position after each row's last true token.
            recorder: is given the queries, where the graph returns them.

        Returns:
            The last hidden state, [B, T, D].
        """
        length = max(ends)
        width = tokens.shape[1]
        # A graph is for one kind of tensor and one set of strides (even of a size of 1); any other
        # would be compiled for again.
        _, padded, _ = _key(len(rows), width, 0)
        tokens = pad(tokens, (0, padded - width)).clone(memory_format=torch.contiguous_format)
        table = upload([list(starts), list(ends)], tokens.device)
        if self._cuda:
            length = min(-(-length // _CUDA_LENGTH) * _CUDA_LENGTH, self._length)
            torch.compiler.cudagraph_mark_step_begin()
        addresses = Addresses(rows, tokens.device, reach=-(-length // PAGE))
        begins, stops = table.unsqueeze(2).unbind(0)
        hidden, queries = compiled.step(
            tokens,
            table,
            self._slots[:length],
            addresses.written(begins + self._slots[:padded], stops),
            addresses.read(ends, length, 0, len(rows)).clone(memory_format=torch.contiguous_format),
            self.cache.keys,
            self.cache.values,
        )
        hidden = hidden[:, :width]
        if self._cuda:  # the next replay overwrites them
            hidden = hidden.clone()
            queries = [query.clone() for query in queries]
        if recorder is not None:
            recorder.layers = compiled.layers
            recorder.queries += [query[:, :, :width] for query in queries]
        return hidden

    def _compile(self, key: Key) -> bool:
        """Compile a pass; return whether the compiler works."""
        if key in self._ready:
            return True
        try:
            with torch.inference_mode():
                compiled = self._build(key)
                compiled.step(*self._example(key))
            with self._changed:
                self._ready[key] = compiled
                self._changed.notify_all()
        except Exception as error:  # whatever the compiler raises, eager passes still work
            reason = first_line(error)
            with self._changed:
                self.failure = reason
                self._changed.notify_all()
        return self.failure is None

    def _build(self, key: Key) -> Pass:
        several, width, capture = key
        body, masks = self.model.body, self._masks
        assert body is not None
        layers = len(self.model.layers)
        # A single query sees all slots up to its own, unless lengths are rounded up.
        unmasked = not several and width == 1 and not self._windows and not self._cuda

        def run(
            recorder: Recorder,
            tokens: Tensor,
            table: Tensor,
            slots: Tensor,
            places: Tensor,
            reads: Tensor,
            keys: list[Tensor],
            values: list[Tensor],
        ) -> Tensor:
            starts, ends = table.unsqueeze(2).unbind(0)
            positions = starts + torch.arange(width, device=tokens.device)
            positions = torch.minimum(positions, (ends - 1).clamp(min=0))
            span = Span(
                first=0,
                last=tokens.shape[0],
                length=slots.shape[0],
                positions=None if unmasked else positions,
                slots=reads,
            )
            view = CacheView(
                keys,
                values,
                [span],
                masks,
                slots,
                places=places,
                recorder=recorder,
                symbolic=True,
            )
            return body(tokens, positions, view)

        def step(*arguments: Any) -> tuple[Tensor, list[Tensor]]:
            recorder = Recorder(capture, layers, describes=False)
            hidden = run(recorder, *arguments)
            return hidden, recorder.queries

        # Graphs are kept per code object, and only a few of each; every pass gets its own.
        name = f"step_{'batch' if several else 'single'}_{width}_{capture}"
        own = types.FunctionType(
            step.__code__.replace(co_name=name), step.__globals__, name, None, step.__closure__
        )
        mode = "reduce-overhead" if self._cuda else None
        compiled: Step = torch.compile(own, fullgraph=True, mode=mode)
        # A graph returns tensors alone; an eager run describes the layers.
        described = Recorder(capture, layers)
        if capture:
            run(described, *self._example(key))
        return Pass(compiled, described.layers)

    def _example(self, key: Key) -> tuple[Any, ...]:
        """Make arguments to compile with: pads only, which write where nobody reads.

        The sizes are all different, as equal ones would be taken for the same.
        """
        several, width, _ = key
        device = self.model.device
        batch = 2 if several else 1
        tokens = torch.zeros((batch, width), dtype=torch.long, device=device)
        table = torch.ones((2, batch), dtype=torch.long, device=device)
        slots = torch.arange(min(41, self._length), device=device)
        places = torch.zeros(batch * width, dtype=torch.long, device=device)
        reads = torch.zeros((batch, len(slots)), dtype=torch.long, device=device)
        mark: Any = torch._dynamo.mark_dynamic  # pyright: ignore
        if several:
            mark(tokens, 0)
            mark(table, 1)
            mark(places, 0)
            mark(reads, 0)
        if not self._cuda:
            mark(slots, 0)
            mark(reads, 1)
        return tokens, table, slots, places, reads, self.cache.keys, self.cache.values
