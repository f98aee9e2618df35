"""Measuring of what passes cost, one pass at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch

from stet.core.row import Role
from stet.engine.costs import BLOCK, Costs
from stet.engine.load import Others
from stet.engine.runner import Runner

WIDTHS: Mapping[Role, tuple[int, ...]] = {"target": (1, BLOCK), "draft": (1,)}
"""Tokens of the passes that are timed, by role; between them costs are interpolated."""


class CostMeasurement:
    """Times passes of both models in turn, one pass at a time.

    A pass takes a free row of its runner and gives it back, so that none is held between two
    passes. It is over the first tokens of the row: beside reading the weights, attention to a
    context of usual length costs little.

    Args:
        target: the target's runner.
        draft: the draft's runner; None for prompt lookup.
        widths: numbers of tokens in a pass, by role; 1 must be among them.
        repeats: timings of each pass, of which the lower quartile is taken: what disturbs a pass
            makes it longer, never shorter.
        least: seconds that are measured at least, where passes are short: the load of a machine
            cannot be told of less.
        budget: seconds after which two timings of each pass are enough, so that a large model is
            run only a few times.
        patience: seconds that are measured where other work holds the machine's cores: of more
            timings the shortest is nearer to what a pass takes by itself.
        clock: returns seconds; for tests.

    Attributes:
        costs: the measured costs; None until the measurement is finished.
    """

    def __init__(
        self,
        target: Runner,
        draft: Runner | None,
        *,
        widths: Mapping[Role, tuple[int, ...]] = WIDTHS,
        repeats: int = 7,
        least: float = 0.3,
        budget: float = 1.5,
        patience: float = 6.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.costs: Costs | None = None
        self._clock = clock
        self._least, self._budget, self._patience = least, budget, patience
        runners: dict[Role, Runner | None] = {"target": target, "draft": draft}
        self._timers: dict[tuple[Role, int], Callable[[], None]] = {
            (role, width): partial(_run_pass, runner, width)
            for role, runner in runners.items()
            if runner is not None
            for width in fitting(runner, widths[role])
        }
        self._seconds: dict[tuple[Role, int], list[float]] = {key: [] for key in self._timers}
        # The first turns warm up.
        self._left = [key for _ in range(repeats + _WARM) for key in self._timers]
        self._turns = repeats + _WARM
        self._others = Others()

    def step(self) -> None:
        """Run one pass; after the last one `costs` are known."""
        key = self._left.pop(0)
        began = self._clock()
        self._timers[key]()
        self._seconds[key].append(self._clock() - began)
        spent = sum(map(sum, self._seconds.values()))
        if spent > self._budget and all(len(v) > _FEWEST for v in self._seconds.values()):
            self._left = self._left[: len(self._left) % len(self._timers)]
        if self._left:
            return
        disturbed = self._others.disturb()
        wanted = self._patience if disturbed else self._least
        if spent < wanted and self._turns < _MOST:
            self._left = list(self._timers)
            self._turns += 1
            return
        typical = min if disturbed else _lower_quartile
        found = {key: typical(_drop_warm_up(values)) for key, values in self._seconds.items()}
        self.costs = Costs(
            draft={width: found[role, width] for role, width in found if role == "draft"},
            target={width: found[role, width] for role, width in found if role == "target"},
            disturbed=disturbed,
        )


_WARM = 2
_FEWEST = 2
_MOST = 60


def _drop_warm_up(values: list[float]) -> list[float]:
    """Drop the first timings, which warm up; of few values only the first."""
    return values[_WARM:] if len(values) > _WARM + _FEWEST else values[1:]


def _lower_quartile(values: list[float]) -> float:
    return sorted(values)[len(values) // 4]


def fitting(runner: Runner, widths: Iterable[int]) -> list[int]:
    """The widths of passes that fit into a row."""
    return [width for width in widths if width < runner.max_length - 1]


def measure_costs(
    target: Runner,
    draft: Runner | None,
    *,
    widths: Mapping[Role, tuple[int, ...]] = WIDTHS,
    repeats: int = 7,
) -> Costs:
    """Time passes of both models, all at once; see `CostMeasurement`."""
    measuring = CostMeasurement(target, draft, widths=widths, repeats=repeats)
    while measuring.costs is None:
        measuring.step()
    return measuring.costs


def _run_pass(runner: Runner, width: int) -> None:
    row = runner.allocate()
    try:
        tokens = torch.zeros(1, width, dtype=torch.long, device=runner.device)
        # A shortlist is what drafts choose among under most policies.
        runner.forward([row], tokens, [0], logits="all" if runner.shortlist is None else "short")
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
    finally:
        runner.release(row)
