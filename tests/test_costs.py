"""What passes cost: measured a pass at a time, and again once passes are compiled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stet.core.row import Row
from stet.engine.costs import CurrentCosts, measure_costs


class Machine:
    """A clock, and a runner whose passes take time on it."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class FakeRunner:
    """A model of which a pass takes a second, and a tenth more for each further token."""

    def __init__(self, machine: Machine, seconds: float = 1.0) -> None:
        self.machine, self.seconds = machine, seconds
        self.device = torch.device("cpu")
        self.max_length = 200
        self.compiled_passes = 0
        self.compiling = False
        self.shortlist = None
        self.held: list[Row] = []
        self.widths: list[int] = []
        self.broken = False

    def allocate(self) -> Row:
        self.held.append(Row(len(self.held)))
        return self.held[-1]

    def release(self, row: Row) -> None:
        self.held.remove(row)

    def forward(self, rows: Any, tokens: torch.Tensor, starts: Any, **_: Any) -> Any:
        if self.broken:
            raise RuntimeError("out of memory")
        width = tokens.shape[1]
        self.widths.append(width)
        self.machine.time += self.seconds * (1 + (width - 1) / 10)
        return SimpleNamespace()


def current() -> tuple[CurrentCosts, FakeRunner, FakeRunner]:
    machine = Machine()
    target, draft = FakeRunner(machine), FakeRunner(machine, 0.2)
    runners: list[Any] = [target, draft]
    return CurrentCosts(*runners, clock=machine), target, draft


def finish(costs: CurrentCosts) -> int:
    """Passes until there is nothing to measure."""
    count = 0
    while costs.work():
        count += 1
    return count


def test_the_first_are_measured_when_they_are_needed() -> None:
    costs, target, draft = current()
    assert costs.latest is None
    found = costs.now()
    assert found.draft_cost == pytest.approx(0.2)
    assert found.position_cost == pytest.approx(0.1)
    assert not target.held
    assert not draft.held
    passes = len(target.widths)
    assert costs.now() is found
    assert len(target.widths) == passes
    assert not costs.work()


def test_they_are_measured_again_once_more_is_compiled_a_pass_at_a_time() -> None:
    costs, target, draft = current()
    eager = costs.now()
    target.compiling = True
    target.compiled_passes, target.seconds = 1, 0.5
    assert not costs.work(), "compiling takes the processor's time, and there is more to come"
    target.compiled_passes, target.compiling = 4, False
    before = len(target.widths) + len(draft.widths)
    assert costs.work()
    assert len(target.widths) + len(draft.widths) == before + 3  # two prefills and a pass
    assert costs.latest is eager, "requests go on beginning with these until there are others"
    assert costs.now() is eager
    finish(costs)
    assert costs.now().draft_cost == pytest.approx(0.4)
    assert eager.draft_cost == pytest.approx(0.2), "what a request began with stays as it is"
    assert not target.held
    assert not draft.held
    assert not costs.work()


def test_what_is_compiled_meanwhile_is_measured_after_it() -> None:
    costs, target, _ = current()
    costs.now()
    target.compiled_passes = 1
    costs.work()
    target.compiled_passes, target.seconds = 2, 0.25
    finish(costs)
    assert costs.now().draft_cost == pytest.approx(0.8)


def test_a_measurement_that_fails_or_is_dropped_frees_its_rows() -> None:
    costs, target, draft = current()
    target.broken = True
    with pytest.raises(RuntimeError, match="out of memory"):
        costs.now()
    target.broken = False
    eager = costs.now()
    target.compiled_passes = 1
    costs.work()
    assert target.held
    target.broken = True
    assert finish(costs) == 1, "no request fails for want of better ones, and it is not tried again"
    assert costs.now() is eager
    assert not target.held
    assert not draft.held
    target.broken, target.compiled_passes = False, 2
    costs.work()
    costs.drop()
    assert not target.held
    assert finish(costs) > 5


@pytest.mark.parametrize(("seconds", "passes"), [(0.001, 27), (0.1, 15), (3.0, 9)])
def test_of_a_slow_model_few_passes_are_timed(seconds: float, passes: int) -> None:
    machine = Machine()
    target, draft = FakeRunner(machine, seconds), FakeRunner(machine, seconds / 5)
    runners: list[Any] = [target, draft]
    costs = CurrentCosts(*runners, clock=machine)
    found = costs.now()
    assert found.draft_cost == pytest.approx(0.2)
    assert found.position_cost == pytest.approx(0.1)
    assert len(target.widths) + len(draft.widths) - 2 == passes


def test_prompt_lookup_costs_nothing() -> None:
    runner: Any = FakeRunner(Machine())
    assert measure_costs(runner, None, repeats=1).draft_pass(1) == 0.0
