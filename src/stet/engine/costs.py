"""Costs of a pass of each model on this machine: measured, and frozen in each request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch

from stet.core.model import LoadedModel
from stet.core.row import Role, Row
from stet.engine.runner import Logits, Runner


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of forward passes, by the number of tokens in them, ascending.

    Attributes:
        draft: of the draft's passes; empty for prompt lookup.
        target: of the target's passes.
    """

    draft: dict[int, float]
    target: dict[int, float]

    @property
    def draft_cost(self) -> float:
        """Cost of a draft pass over one token, in target passes over one."""
        return self.draft_pass(1) / self.target[1]

    @property
    def position_cost(self) -> float:
        """Cost of a further token in the target's pass, in passes of one token, at least 0."""
        slope = self.target_pass(_BLOCK) - self.target[1]
        return max(slope / (_BLOCK - 1) / self.target[1], 0.0)

    def to_json(self) -> dict[str, dict[str, float]]:
        """The costs as a file holds them."""
        return {
            role: {str(tokens): seconds for tokens, seconds in passes.items()}
            for role, passes in (("draft", self.draft), ("target", self.target))
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Mapping[str, float]]) -> Costs:
        """Read costs from a file.

        Raises:
            ValueError: they are no costs.
        """
        draft, target = (
            {int(tokens): float(seconds) for tokens, seconds in sorted(value[role].items())}
            for role in ("draft", "target")
        )
        seconds = [*draft.values(), *target.values()]
        if 1 not in target or (draft and 1 not in draft) or not all(0 < s < 1e6 for s in seconds):
            raise ValueError("These are no costs of passes.")
        return cls(dict(sorted(draft.items())), dict(sorted(target.items())))

    def draft_pass(self, tokens: int) -> float:
        """Seconds of a draft pass over so many tokens of any rows; 0 for prompt lookup."""
        return interpolate(self.draft, tokens) if self.draft else 0.0

    def target_pass(self, tokens: int) -> float:
        """Seconds of a target pass over so many tokens of any rows."""
        return interpolate(self.target, tokens)


def interpolate(seconds: Mapping[int, float], tokens: int) -> float:
    """Seconds of a pass over `tokens`, between and beyond the numbers that were measured."""
    known = sorted(seconds)
    if tokens in seconds or len(known) == 1:
        return seconds[tokens if tokens in seconds else known[0]]
    upper = next((n for n in known if n > tokens), known[-1])
    lower = known[max(known.index(upper) - 1, 0)]
    slope = (seconds[upper] - seconds[lower]) / (upper - lower)
    # Noise must not make longer and longer passes look cheaper.
    return seconds[lower] + max(slope, 0.0) * (tokens - lower)


# Seconds that a layer takes however small it is, and bytes of weights read per second.
_LAYER_SECONDS = {"cpu": 3e-4, "cuda": 3e-5}
_BANDWIDTH = {"cpu": 2e10, "cuda": 2e12}


def estimate_draft_cost(target: LoadedModel, draft: LoadedModel | None) -> float:
    """Estimate the cost of a draft pass, in target passes, from the models' sizes alone.

    The estimate is coarse, but the same on every run: a sampled text depends on where its blocks
    end, so their lengths must not depend on a measurement if a seed is to give the same text again.
    """

    def seconds(model: LoadedModel) -> float:
        kind = model.device.type
        layer = _LAYER_SECONDS.get(kind, _LAYER_SECONDS["cuda"])
        bandwidth = _BANDWIDTH.get(kind, _BANDWIDTH["cuda"])
        return len(model.layers) * layer + model.parameter_bytes / bandwidth

    return 0.0 if draft is None else seconds(draft) / seconds(target)


_BLOCK = 13

WIDTHS: Mapping[Role, tuple[int, ...]] = {"target": (1, _BLOCK), "draft": (1,)}
"""Tokens of the passes that are timed, by role; between them costs are interpolated."""

BATCH_WIDTHS: Mapping[Role, tuple[int, ...]] = {"target": (1, _BLOCK, 48, 160), "draft": (1, 16)}
"""Tokens of the passes that are timed once several requests share a round."""

CONTEXT = 64


class CostMeasurement:
    """Times passes of both models in turn, one pass at a time.

    Needs a free row in each runner until it is finished or dropped.

    Args:
        target: the target's runner.
        draft: the draft's runner; None for prompt lookup.
        widths: numbers of tokens in a pass, by role; 1 must be among them.
        context: tokens in the cache.
        repeats: timings of each pass, of which the median is taken.
        budget: seconds after which two timings of each pass are enough, so that a large model is
            run only a few times.
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
        context: int = CONTEXT,
        repeats: int = 7,
        budget: float = 1.5,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.costs: Costs | None = None
        self._clock = clock
        self._budget = budget
        self._timers: dict[tuple[Role, int], Callable[[], None]] = {}
        self._taken: list[tuple[Runner, Row]] = []
        runners: dict[Role, Runner | None] = {"target": target, "draft": draft}
        try:
            for role, runner in runners.items():
                if runner is None:
                    continue
                fitting = _fitting(runner, widths[role])
                length = min(context, runner.max_length - max(fitting) - 1)
                row = _fill(runner, length, self._taken)
                for width in fitting:
                    self._timers[role, width] = _make_pass(runner, row, length, width)
        except BaseException:
            self.drop()
            raise
        self._seconds: dict[tuple[Role, int], list[float]] = {key: [] for key in self._timers}
        # The first turns warm up.
        self._left = [key for _ in range(repeats + _WARM) for key in self._timers]

    def step(self) -> None:
        """Run one pass; after the last one `costs` are known and the rows free."""
        key = self._left.pop(0)
        began = self._clock()
        try:
            self._timers[key]()
        except BaseException:
            self.drop()
            raise
        self._seconds[key].append(self._clock() - began)
        spent = sum(map(sum, self._seconds.values()))
        if spent > self._budget and all(len(v) > _LEAST for v in self._seconds.values()):
            self._left = self._left[: len(self._left) % len(self._timers)]
        if self._left:
            return
        self.drop()
        medians = {key: median(_drop_warm_up(values)) for key, values in self._seconds.items()}
        self.costs = Costs(
            draft={width: seconds for (role, width), seconds in medians.items() if role == "draft"},
            target={width: medians[role, width] for role, width in medians if role == "target"},
        )

    def drop(self) -> None:
        """Give the rows back."""
        for runner, held in self._taken:
            runner.release(held)
        self._taken.clear()


_WARM = 2
_LEAST = 2


def _drop_warm_up(values: list[float]) -> list[float]:
    """Drop the first timings, which warm up; of few values only the first."""
    return values[_WARM:] if len(values) > _WARM + _LEAST else values[1:]


def _fitting(runner: Runner, widths: Iterable[int]) -> list[int]:
    """The widths of passes that fit into a row."""
    return [width for width in widths if width < runner.max_length - 1]


def measure_costs(
    target: Runner,
    draft: Runner | None,
    *,
    widths: Mapping[Role, tuple[int, ...]] = WIDTHS,
    context: int = CONTEXT,
    repeats: int = 7,
) -> Costs:
    """Time passes of both models, all at once; see `CostMeasurement`."""
    measuring = CostMeasurement(target, draft, widths=widths, context=context, repeats=repeats)
    while measuring.costs is None:
        measuring.step()
    return measuring.costs


class Kept(Protocol):
    """Costs that outlive a process, by how many passes were compiled."""

    def get(self, compiled: int) -> Costs | None:
        """The costs with so many passes compiled, if they are known."""
        ...

    def put(self, compiled: int, costs: Costs) -> None:
        """Keep costs."""
        ...


class CurrentCosts:
    """The current costs of passes: measured once, and again when more of them are compiled.

    A request keeps the costs it began with. Not thread-safe: for the thread that runs the models.

    Args:
        target: the target's runner.
        draft: the draft's runner; None for prompt lookup.
        kept: costs of earlier processes, which need not be measured again; None: none are kept.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        target: Runner,
        draft: Runner | None,
        *,
        kept: Kept | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runners = target, draft
        self._kept = kept
        self._clock = clock
        self._widths: Mapping[Role, tuple[int, ...]] = WIDTHS
        self._latest: Costs | None = None
        self._measured = -1
        self._measuring: tuple[int, CostMeasurement] | None = None

    @property
    def latest(self) -> Costs | None:
        """The newest costs; None before the first measurement."""
        return self._latest

    @property
    def stale(self) -> bool:
        """Whether to measure: nothing was measured yet, or more passes are compiled by now.

        False while passes are being compiled, which takes the processor's time and changes costs.
        """
        if self._latest is None:
            return True
        runners = [runner for runner in self._runners if runner is not None]
        return not any(r.compiling for r in runners) and self._generation() != self._measured

    def measure_batches(self) -> None:
        """Measure the passes of batches, too, between the rounds to come."""
        if self._widths is not BATCH_WIDTHS:
            self._widths = BATCH_WIDTHS
            self._measured = -1

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
            self._measured = self._generation()
        return True

    def renew(self) -> None:
        """Call `work` if there are costs already; the first ones are measured when asked for."""
        if self._latest is not None:
            self.work()

    def _step(self) -> None:
        if self._measuring is None:
            if self._take_kept():
                return
            target, draft = self._runners
            measuring = CostMeasurement(target, draft, widths=self._widths, clock=self._clock)
            self._measuring = self._generation(), measuring
        generation, measuring = self._measuring
        measuring.step()
        if measuring.costs is not None:
            self._latest, self._measured = measuring.costs, generation
            self._measuring = None
            if self._kept is not None:
                self._kept.put(generation, measuring.costs)

    def _take_kept(self) -> bool:
        """Take the costs that are kept, unless passes are wanted that they do not tell of."""
        generation = self._generation()
        kept = None if self._kept is None else self._kept.get(generation)
        wanted = _fitting(self._runners[0], self._widths["target"])
        if kept is None or not kept.target.keys() >= set(wanted):
            return False
        self._latest, self._measured = kept, generation
        return True

    def drop(self) -> None:
        """Drop a measurement that is under way, and free its rows."""
        if self._measuring is not None:
            self._measuring[1].drop()
            self._measuring = None

    def _generation(self) -> int:
        return sum(runner.compiled_passes for runner in self._runners if runner is not None)


def _fill(runner: Runner, length: int, taken: list[tuple[Runner, Row]]) -> Row:
    row = runner.allocate()
    taken.append((runner, row))
    tokens = torch.zeros(1, length, dtype=torch.long, device=runner.device)
    runner.forward([row], tokens, [0], logits="none")
    return row


def _make_pass(runner: Runner, row: Row, start: int, width: int) -> Callable[[], None]:
    # A shortlist is what drafts choose among under most policies.
    logits: Logits = "all" if runner.shortlist is None else "short"
    tokens = torch.zeros(1, width, dtype=torch.long, device=runner.device)

    def run() -> None:
        runner.forward([row], tokens, [start], logits=logits)
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)

    return run
