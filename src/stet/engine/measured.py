"""What the passes of a pair cost, and what is chosen by that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from stet.core.draft_length import SHARED, AdaptiveLength
from stet.core.errors import OptionError, StetError
from stet.core.model import LoadedModel
from stet.engine.compiled import WIDTHS
from stet.engine.costs import Costs, estimate_draft_cost
from stet.engine.current_costs import CostsOfBatches, CurrentCosts
from stet.engine.engine import Engine
from stet.engine.masks import WIDEST
from stet.engine.profile import Profile, open_record
from stet.engine.thread import EngineThread

T = TypeVar("T")


class Measured:
    """A pair whose passes are measured: the part of `stet.pair.Pair` that is about their costs.

    Attributes:
        target: the larger model, or what stands for one that is elsewhere.
        draft: the smaller model; None for prompt lookup.
        max_batch: requests decoded at a time.
        engine: runs both, in a thread of its own.
        prefix_caching: whether texts stay in the caches anyway.
    """

    target: Any
    draft: LoadedModel | None
    max_batch: int
    engine: Engine
    prefix_caching: bool
    _thread: EngineThread
    _profile: Profile
    _costs: CurrentCosts | None
    _batches: CostsOfBatches | None
    _measuring: threading.Lock

    @cached_property
    def fingerprint(self) -> str:
        """A hash that identifies this pair."""
        raise NotImplementedError

    @property
    def costs(self) -> Costs:
        """Measured seconds of a forward pass of each model.

        Measured when first asked for, and again, between rounds, once more passes are compiled or
        they turn out wrong.

        Raises:
            OptionError: the target is remote.
        """
        costs = self._costs
        if costs is None:
            raise OptionError("The passes of a remote target cannot be measured.")
        with self._measuring:
            while (latest := costs.latest) is None:
                self.between_rounds(costs.work)  # a pass at a time, so that nobody waits for all
            return latest

    def costs_with(self, threads: int) -> Costs | None:
        """Seconds of passes with so many threads; measured unless they are known.

        The number of threads stays as it is. None where the target is remote.
        """
        costs = self._costs
        return None if costs is None else self.between_rounds(partial(costs.with_threads, threads))

    def renew_costs(self) -> None:
        """Measure now what `costs` would measure between rounds, such as passes just compiled."""
        if self._costs is not None:
            while self.between_rounds(self._costs.work):
                pass

    @property
    def profile_path(self) -> Path | None:
        """The file that keeps this pair's costs; None where they are kept in memory alone."""
        return self._profile.path

    @contextmanager
    def costs_of_run(self, path: Path) -> Iterator[None]:
        """Inside the `with` block, use the costs that a run began with.

        A run that is interrupted and resumed, by another process or on a machine whose mood has
        changed, then drafts the same blocks. Costs that the file does not hold are added to it.

        Args:
            path: the run's file; made when a cost is first needed.
        """
        costs = self._costs
        if costs is None:
            yield
            return
        outer = self._profile
        self._profile = open_record(path, self.fingerprint, outer)
        self.between_rounds(partial(costs.use, self._profile))
        try:
            yield
        finally:
            self._profile = outer
            with suppress(StetError):  # the pair was closed
                self.between_rounds(partial(costs.use, outer))

    @contextmanager
    def keeping_texts(self) -> Iterator[None]:
        """Inside the `with` block, a prompt is not read again as far as it was read before.

        For work that asks about the same texts again and again, such as collecting rollouts; times
        that are measured meanwhile depend on what was asked before. Only of packed models: of
        others the last bits of a text would depend on it, too.
        """
        exact = [r for r in self.engine.runners.values() if r.exact_width is not None]
        before = self.prefix_caching

        def keep(yes: bool) -> None:
            for runner in exact:
                runner.keep_texts(yes)

        self.between_rounds(partial(keep, True))
        try:
            yield
        finally:
            with suppress(StetError):  # the pair was closed
                self.between_rounds(partial(keep, before))

    def between_rounds(self, function: Callable[[], T]) -> T:
        """Call a function in the engine's thread, between two rounds, and wait for it.

        For functions that use the models' runners themselves. All requests wait meanwhile.
        """
        return self._thread.call(function).result()

    def auto_length(
        self,
        greedy: bool = True,
        block_invariant: bool = True,
        lossless: bool = True,
        fits: bool = True,
    ) -> AdaptiveLength:
        """The rule behind `draft_length="auto"`, with this pair's costs frozen in it.

        For block-invariant greedy text the rule uses measured costs and the number of requests
        that share a round: in a batch a long block makes the others wait for it, alone it pays.
        Other texts depend on where blocks end; there an estimate of the costs from the models'
        sizes keeps the text repeatable.

        Args:
            greedy: whether the requests are at temperature 0.
            block_invariant: whether their policy writes the same text wherever blocks end.
            lossless: whether their text is the target's, so that the target may write alone where
                drafting loses time.
            fits: whether blocks may be shortened where a round is full. In a recorded run those of
                a lenient policy stay as the rule wants them: what it is measured by, such as its
                tokens per pass, must not hang on how long the rounds of today take.
        """
        # Reading the draft's confidence would make a GPU wait for the host at every token.
        if not isinstance(self.target, LoadedModel):
            raise OptionError("A remote target reads no blocks, so none has a best length.")
        look = greedy and self.draft is not None and self.target.device.type == "cpu"
        if not (greedy and block_invariant):
            cost = _round_cost(estimate_draft_cost(self.target, self.draft))
            return AdaptiveLength(draft_cost=cost, by_confidence=look, may_rest=lossless)
        fits = fits and (lossless or not self._profile.is_record)
        known = fits and self._batches is not None and self._batches.known
        costs = self.costs
        return AdaptiveLength(
            draft_cost=_round_cost(costs.draft_cost),
            position_cost=_round_cost(costs.position_cost),
            read_cost=_round_cost(costs.reading / costs.target[1]),
            longest=WIDEST - 1 if self.max_batch == 1 or known else SHARED,
            by_confidence=look,
            prior_weight=1.0,
            may_rest=lossless,
            fits=fits,
        )

    def warm_up(self, timeout: float | None = None) -> bool:
        """Compile all short passes now, where compiling is on, and wait for them.

        Args:
            timeout: seconds to wait for each model; None: as long as it takes.

        Returns:
            Whether all passes are compiled; False also where compiling is off or failed.
        """
        widths = {"target": WIDTHS, "draft": WIDTHS[:2]}
        runners = self.engine.runners.items()
        # Captured graphs belong to the thread that uses them; waiting is done in this one.
        for role, runner in runners:
            self.between_rounds(partial(runner.request_compiled, widths[role]))
        ready = [runner.wait_compiled(widths[role], timeout=timeout) for role, runner in runners]
        return all(ready)


def _round_cost(value: float) -> float:
    """Round a cost to two digits, so that timing noise does not show up as a different rule."""
    return float(f"{value:.2g}")
