"""The current costs of passes: measured, kept, and measured again where they turn out wrong."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from stet.core.model import LoadedModel
from stet.core.row import Role
from stet.engine.costs import Costs
from stet.engine.measuring import WIDTHS, CostMeasurement, fitting, measure_costs
from stet.engine.runner import Runner
from stet.engine.watching import WINDOW, Watch

PATIENCE = 30.0
"""Seconds between two measurements of the same passes at least; doubled each time."""

State = tuple[int, int]
"""What costs depend on in a process: threads of the calling thread, and passes compiled."""


class Kept(Protocol):
    """Costs that outlive a process, by state.

    Attributes:
        is_record: costs that are there are never replaced, since a run's texts may hang on them.
    """

    is_record: bool

    def get(self, state: State) -> Costs | None:
        """The costs in this state, if they are known."""
        ...

    def put(self, state: State, costs: Costs) -> None:
        """Keep costs, in place of those of the same state."""
        ...


class CurrentCosts:
    """The current costs of passes: measured once for each state, and again where they were wrong.

    They were wrong if other work disturbed the measuring, or if passes of requests take another
    time. A request keeps the costs it began with. Not thread-safe: for the thread that runs the
    models.

    Args:
        target: the target's runner.
        draft: the draft's runner; None for prompt lookup.
        kept: where costs are kept, from earlier processes too.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        target: Runner,
        draft: Runner | None,
        *,
        kept: Kept,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runners = target, draft
        self.kept = kept
        self._clock = clock
        self._latest: Costs | None = None
        self._measured: State | None = None
        self._measuring: tuple[State, CostMeasurement] | None = None
        self._pause = PATIENCE
        self._next = 0.0
        self.watch = Watch()
        if target.device.type == "cpu":  # elsewhere a pass returns before it has run
            for runner in filter(None, self._runners):
                runner.timings = deque(maxlen=WINDOW)

    @property
    def latest(self) -> Costs | None:
        """The newest costs; None before the first measurement."""
        return self._latest

    @property
    def stale(self) -> bool:
        """Whether to measure: nothing was measured in this state, or what was is wrong.

        False while passes are being compiled, which takes the processor's time and changes costs.
        """
        if self._latest is None:
            return True
        if any(r.compiling for r in self._runners if r is not None):
            return False
        return self._state() != self._measured or self._is_wrong()

    def _is_wrong(self) -> bool:
        assert self._latest is not None
        if self.kept.is_record or self._clock() < self._next:
            return False
        return self._latest.disturbed or self.watch.disagrees

    def use(self, kept: Kept) -> None:
        """Keep costs elsewhere from now on, and use those that are there."""
        self.kept = kept
        self._latest = self._measured = self._measuring = None

    def with_threads(self, count: int) -> Costs:
        """The costs with so many threads, which are measured at once unless they are known."""
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            known = self.kept.get(self._state())
            if known is None or known.disturbed:
                known = measure_costs(*self._runners)
                self.kept.put(self._state(), known)
            return known
        finally:
            torch.set_num_threads(before)

    def now(self) -> Costs:
        """The newest costs; if there are none they are measured now, which takes dozens of passes.

        Newer costs are measured by `work`.
        """
        while self._latest is None:
            self.work()
        return self._latest

    def work(self) -> bool:
        """Run one pass of a measurement, if there is anything to measure; return whether it did.

        Called between rounds, it delays each of some dozens of rounds by a pass.
        """
        if self._measuring is None and not self.stale:
            return False
        try:
            self._step()
        except Exception:
            self._measuring = None
            if self._latest is None:
                raise
            # The old costs still serve; no request should fail because better ones are missing.
            self._measured = self._state()
            self._wait()
        return True

    def renew(self) -> None:
        """Look at the passes of a round, and call `work` if there are costs already.

        The first ones are measured when asked for.
        """
        if self._latest is not None:
            self._compare()
            self.work()

    def _step(self) -> None:
        if self._measuring is None:
            if self._state() != self._measured and self._take_kept():
                return
            target, draft = self._runners
            measuring = CostMeasurement(target, draft, clock=self._clock)
            self._measuring = self._state(), measuring
        state, measuring = self._measuring
        if state != self._state():
            self._measuring = None  # passes of two states are not compared
            return
        measuring.step()
        for runner in filter(None, self._runners):
            if runner.timings:
                runner.timings.pop()  # what was measured just now proves nothing
        if measuring.costs is not None:
            self._measuring = None
            self._take(state, measuring.costs)

    def _take(self, state: State, costs: Costs) -> None:
        again = state == self._measured
        self._measured = state
        self.watch.clear()
        self._wait(double=again)
        if again and costs.disturbed and self._latest is not None:
            return  # no better than what there is
        self._latest = costs
        self.kept.put(state, costs)

    def _wait(self, double: bool = True) -> None:
        self._pause = 2 * self._pause if double else PATIENCE
        self._next = self._clock() + self._pause

    def _take_kept(self) -> bool:
        """Take the costs that are kept, unless passes are wanted that they do not tell of."""
        state = self._state()
        kept = self.kept.get(state)
        wanted = fitting(self._runners[0], WIDTHS["target"])
        if kept is None or not kept.target.keys() >= set(wanted):
            return False
        self._latest, self._measured = kept, state
        self.watch.clear()
        self._wait(double=False)
        return True

    def _state(self) -> State:
        compiled = sum(runner.compiled_passes for runner in self._runners if runner is not None)
        return torch.get_num_threads(), compiled

    def _compare(self) -> None:
        """Hold the passes since the last time against what was measured."""
        for role, runner in zip(_ROLES, self._runners, strict=True):
            if runner is None or not runner.timings:
                continue
            if self._latest is not None and self._state() == self._measured:
                known = self._latest.draft if role == "draft" else self._latest.target
                for tokens, seconds in runner.timings:
                    if tokens in known:  # between these, costs are not measured
                        self.watch.add(role, seconds / known[tokens])
            runner.timings.clear()


_ROLES: tuple[Role, Role] = ("target", "draft")


class CostsOfBatches:
    """What blocks are fitted to a round by; for the engine's thread.

    Where rounding depends on a pass's width and a run is recorded, nothing is known: the run's
    texts must not hang on what rounds take today.

    Args:
        costs: the current costs.
        target: the model that verifies.
    """

    def __init__(self, costs: CurrentCosts, target: LoadedModel) -> None:
        self._costs = costs
        self._exact = target.packed or target.dtype == torch.float32

    @property
    def known(self) -> bool:
        """Whether blocks are fitted at present."""
        return self._exact or not self._costs.kept.is_record

    def __call__(self) -> Costs | None:
        """The costs; None where blocks are to be left as they are asked for."""
        return self._costs.latest if self.known else None
