"""What passes cost: measured a pass at a time, and again once passes are compiled."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stet.core.row import Row
from stet.engine import measuring
from stet.engine.costs import Costs
from stet.engine.current_costs import PATIENCE, CurrentCosts
from stet.engine.measuring import measure_costs
from stet.engine.profile import Profile
from stet.engine.watching import WINDOW


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
        self.timings: Any = None

    def allocate(self) -> Row:
        self.held.append(Row())
        return self.held[-1]

    def release(self, row: Row) -> None:
        self.held.remove(row)

    def forward(self, rows: Any, tokens: torch.Tensor, starts: Any, **_: Any) -> Any:
        if self.broken:
            raise RuntimeError("out of memory")
        width = tokens.shape[1]
        self.widths.append(width)
        seconds = self.seconds * (1 + (width - 1) / 10)
        self.machine.time += seconds
        if self.timings is not None:
            self.timings.append((width, seconds))
        return SimpleNamespace()


def current(profile: Profile | None = None) -> tuple[CurrentCosts, FakeRunner, FakeRunner]:
    machine = Machine()
    target, draft = FakeRunner(machine), FakeRunner(machine, 0.2)
    runners: list[Any] = [target, draft]
    kept = profile or Profile(None, {})
    return CurrentCosts(*runners, kept=kept, clock=machine), target, draft


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine that is otherwise idle, until `busy` is set."""
    state = SimpleNamespace(busy=False)
    monkeypatch.setattr(measuring, "Others", lambda: SimpleNamespace(disturb=lambda: state.busy))
    return state


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
    assert len(target.widths) + len(draft.widths) == before + 1
    assert not target.held, "a request that ends meanwhile must leave no row behind"
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


def test_a_measurement_that_fails_frees_its_rows() -> None:
    costs, target, draft = current()
    target.broken = True
    with pytest.raises(RuntimeError, match="out of memory"):
        costs.now()
    target.broken = False
    eager = costs.now()
    target.compiled_passes = 1
    costs.work()
    target.broken = True
    assert finish(costs) == 1, "no request fails for want of better ones, and it is not tried again"
    assert costs.now() is eager
    assert not target.held
    assert not draft.held
    target.broken, target.compiled_passes = False, 2
    assert finish(costs) > 5


@pytest.mark.parametrize(("seconds", "passes"), [(0.005, 54), (0.1, 15), (3.0, 9)])
def test_of_a_slow_model_few_passes_are_timed(seconds: float, passes: int) -> None:
    machine = Machine()
    target, draft = FakeRunner(machine, seconds), FakeRunner(machine, seconds / 5)
    runners: list[Any] = [target, draft]
    costs = CurrentCosts(*runners, kept=Profile(None, {}), clock=machine)
    found = costs.now()
    assert found.draft_cost == pytest.approx(0.2)
    assert found.position_cost == pytest.approx(0.1)
    assert len(target.widths) + len(draft.widths) == passes


def test_prompt_lookup_costs_nothing() -> None:
    runner: Any = FakeRunner(Machine())
    assert measure_costs(runner, None, repeats=1).draft_pass(1) == 0.0


def test_what_was_measured_beside_other_work_is_measured_again_once_there_is_time(others) -> None:
    others.busy = True
    costs, target, _ = current()
    target.seconds = 3.0
    assert costs.now().disturbed
    assert not costs.work(), "the other work may be going on"
    others.busy, target.seconds = False, 1.0
    target.machine.time += 2 * PATIENCE
    finish(costs)
    assert not costs.now().disturbed
    assert costs.now().target[1] == pytest.approx(1.0)
    target.machine.time += 100 * PATIENCE
    assert not costs.work()


def test_beside_other_work_the_shortest_of_more_timings_counts(others) -> None:
    others.busy = True
    costs, target, _ = current()
    target.seconds = 0.1
    calm = target.forward
    chance = random.Random(0)

    def disturbed(*given: Any, **more: Any) -> Any:
        target.machine.time += chance.choice((0.0, 0.1, 0.3))
        return calm(*given, **more)

    target.forward = disturbed  # type: ignore[method-assign]
    found = costs.now()
    assert found.target[1] == pytest.approx(0.1)
    assert 5 < target.machine.time < 12


def test_beside_other_work_nothing_better_is_found(others) -> None:
    costs, target, _ = current()
    right = costs.now()
    others.busy, target.seconds = True, 3.0
    serve(costs, target, 2 * WINDOW)
    target.machine.time += 100 * PATIENCE
    assert finish(costs) > 5
    assert costs.now() is right


def serve(costs: CurrentCosts, runner: FakeRunner, passes: int) -> None:
    for _ in range(passes):
        runner.forward([0], torch.zeros(1, 1), [0])
        costs._compare()


def test_costs_that_passes_of_requests_contradict_are_measured_again() -> None:
    profile = Profile(None, {})
    costs, target, draft = current(profile)
    wrong = costs.now()
    serve(costs, target, 10 * WINDOW)
    target.machine.time += 100 * PATIENCE
    assert not costs.work(), "they are right"
    target.seconds = 0.5
    serve(costs, target, WINDOW)
    assert not costs.work(), "a passing mood"
    serve(costs, target, WINDOW)
    assert finish(costs) > 5
    assert costs.now().draft_cost == pytest.approx(0.4)
    assert profile.get(costs._state()) == costs.now()
    assert wrong.draft_cost == pytest.approx(0.2), "what has begun with them keeps them"
    draft.seconds = 0.4
    serve(costs, draft, 3 * WINDOW)
    assert not costs.work(), "they were measured a moment ago"
    draft.machine.time += 10 * PATIENCE
    assert finish(costs) > 5
    assert costs.now().draft_cost == pytest.approx(0.8)


def test_the_costs_of_a_run_stay_even_if_they_are_wrong(tmp_path, others) -> None:
    own = Profile(None, {})
    others.busy = True
    costs, target, _ = current(own)
    first = costs.now()
    path = tmp_path / "profile.json"
    costs.use(Profile(path, {}, source=own))
    assert costs.now() == first, "they come from the pair's own profile"
    others.busy, target.seconds = False, 0.5
    serve(costs, target, 10 * WINDOW)
    target.machine.time += 100 * PATIENCE
    assert not costs.work()
    # Another process goes on with the run; its machine has measured something else.
    other = Profile(None, {})
    resumed, _, _ = current(other)
    other.put(resumed._state(), Costs({1: 9.0}, {1: 9.0, 13: 9.0}))
    resumed.use(Profile(path, {}, source=other))
    assert resumed.now().target == first.target
    assert resumed.now().draft == first.draft


def test_costs_are_those_of_the_threads_that_are_used() -> None:
    costs, target, _ = current()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        slow = costs.now()
        torch.set_num_threads(2)
        target.seconds = 0.5
        finish(costs)
        assert costs.now().draft_cost == pytest.approx(0.4)
        torch.set_num_threads(1)
        finish(costs)
        assert costs.now() == slow, "known already"
    finally:
        torch.set_num_threads(before)
