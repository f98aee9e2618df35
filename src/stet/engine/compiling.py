"""When the passes of a runner are compiled; `compiled.py` has the passes themselves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from stet.engine.compiled import CompiledPasses
from stet.engine.failures import is_out_of_memory
from stet.engine.kv_cache import KVCache
from stet.engine.masks import AlignedMasks

if TYPE_CHECKING:
    from stet.core.model import LoadedModel


class Compiling:
    """A runner that may compile its passes: the part of `stet.engine.runner.Runner` about that.

    Attributes:
        model: the model.
        cache: its keys and values.
        max_rows: the most rows that can be allocated.
        max_length: the most tokens a row can hold.
    """

    model: LoadedModel
    cache: KVCache
    dtype: torch.dtype
    device: torch.device
    max_rows: int
    max_length: int
    _masks: AlignedMasks
    _compiled: CompiledPasses | None

    def fill_cache(self) -> None:
        """Make the whole cache."""
        raise NotImplementedError

    def start_compiling(self) -> None:
        """Run short passes through `torch.compile` from now on, each as soon as it is compiled.

        On a CPU they are compiled in the background. The cache is brought to its full size first;
        where there is no memory for that there is one warning, and passes run without.
        """
        if self._compiled is None and self.model.head is not None and self.max_length > 8:
            try:
                with torch.inference_mode():
                    self.fill_cache()
                    masks, length = self._masks, self.max_length
                    self._compiled = CompiledPasses(self.model, self.cache, masks, length)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._warn("there is no memory for the whole cache")

    def stop_compiling(self) -> None:
        """Compile nothing further, and end the compiling thread; compiled passes stay in use."""
        if self._compiled is not None:
            self._compiled.stop()

    @property
    def compiled_passes(self) -> int:
        """How many kinds of passes are compiled by now; passes cost less from then on."""
        return 0 if self._compiled is None else self._compiled.ready

    @property
    def compiling(self) -> bool:
        """Whether passes are being compiled at present."""
        return self._compiled is not None and self._compiled.busy

    def warm_up(
        self,
        widths: Sequence[int],
        *,
        batches: Sequence[int] = (1, 2),
        capture: int = 0,
        timeout: float | None = None,
    ) -> bool:
        """Compile the passes of some widths now, and wait for them.

        Args:
            widths: the T of the passes to come, such as 1, 2 and K + 1; at most 16 each.
            batches: 1 for passes of a single row, 2 for passes of several.
            capture: how many last layers a recorder captures; 0 for passes without a recorder.
            timeout: seconds to wait for each; None: as long as it takes.

        Returns:
            Whether all are compiled; False also where compiling is off or failed.
        """
        self.request_compiled(widths, batches=batches, capture=capture)
        ready = self.wait_compiled(widths, batches=batches, capture=capture, timeout=timeout)
        self._give_up_compiling()
        return ready

    def request_compiled(
        self, widths: Sequence[int], *, batches: Sequence[int] = (1, 2), capture: int = 0
    ) -> None:
        """Begin to compile passes, see `warm_up`; called in the thread that runs them."""
        if self._compiled is not None:
            for shape in self._shapes(widths, batches, capture):
                self._compiled.request(*shape)

    def wait_compiled(
        self,
        widths: Sequence[int],
        *,
        batches: Sequence[int] = (1, 2),
        capture: int = 0,
        timeout: float | None = None,
    ) -> bool:
        """Wait until requested passes are compiled, see `warm_up`; called in any thread."""
        compiled = self._compiled
        if compiled is None:
            return False
        shapes = self._shapes(widths, batches, capture)
        ready = [compiled.wait(*shape, timeout=timeout) for shape in shapes]
        return all(ready)

    def _shapes(
        self, widths: Sequence[int], batches: Sequence[int], capture: int
    ) -> list[tuple[int, int, int]]:
        capture = min(capture, len(self.model.layers))
        return [(b, w, capture) for w in widths for b in batches if b <= self.max_rows]

    def _give_up_compiling(self) -> None:
        """Warn once why passes are not compiled, in the thread that would run them."""
        if self._compiled is not None and self._compiled.failure is not None:
            self._warn(self._compiled.failure)
            self._compiled = None

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"{self.model.name} runs without torch.compile ({reason}).",
            RuntimeWarning,
            stacklevel=4,
        )
