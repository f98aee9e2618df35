"""Caches too small for all requests: who may begin, who has to wait, and what they write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from stet.core.draft_length import FixedLength
from stet.core.errors import CapacityError
from stet.core.limits import Limits
from stet.core.row import PAGE
from stet.core.sampling import SamplingParams
from stet.engine.drafting import ModelDrafter
from stet.engine.engine import Engine
from stet.engine.request import Request
from stet.engine.runner import Runner
from stet.policies import Ensemble, Exact, SpecGuard
from stet.programs import LocalTarget, stepwise

pytestmark = pytest.mark.unit

TARGET = tiny.llama(seed=0)
DRAFT = tiny.near(TARGET, 0.05)
LENGTH = 160  # ten pages
SAMPLING = SamplingParams(temperature=1.0, seed=3)
STEPS = SpecGuard(
    candidates=3, temperature=1.0, delimiter="e", threshold=0.5, lower=0.0, step_tokens=12
)


def engine(pages: int | None, rows: int = 12) -> Engine:
    """An engine whose caches have so many pages beside the one that takes pads."""
    sizes: dict[str, Any] = {"max_rows": rows, "max_length": LENGTH}
    if pages is not None:
        sizes["pages"] = pages + 1
    target = Runner(tiny.loaded(TARGET), **sizes)
    draft = Runner(tiny.loaded(DRAFT, "draft"), **sizes)
    return Engine(target, ModelDrafter(draft), max_batch=rows, prefill_chunk=32)


def by_step(sequence: Any, policy: Any) -> Any:
    return stepwise(sequence, policy, LocalTarget(Exact()))


def requests(count: int, prompt: int, answer: int, policy: str) -> list[Request]:
    made: list[Request] = []
    for place in range(count):
        tokens = [(7 * place + 3 * i) % 50 for i in range(prompt + place)]
        limits = Limits(max_new_tokens=answer, draft_length=FixedLength(4))
        rules: dict[str, tuple[Any, Any, Any]] = {
            "greedy": (Exact(), SamplingParams(), tiny.speculative),
            "sampled": (Exact(), SAMPLING, tiny.speculative),
            "lenient": (Ensemble(), SamplingParams(), tiny.speculative),
            "steps": (STEPS, SAMPLING, by_step),
        }
        rule, sampling, program = rules[policy]
        sampling = tiny.seeded(sampling, place)
        made.append(tiny.request(tokens, rule, limits, sampling, program, tiny.Letters()))
        made[-1].rows = 4 if policy == "steps" else 1
    return made


def held(machine: Engine) -> list[int]:
    return [runner.pages - runner.pages_free for runner in machine.runners.values()]


@pytest.mark.parametrize("policy", ["greedy", "sampled", "lenient", "steps"])
def test_requests_that_outgrow_the_caches_write_what_they_write_alone(policy: str):
    prompt = 10 if policy == "steps" else 20

    def make() -> list[Request]:
        return requests(5, prompt, 60, policy)

    expected = [tiny.run(engine(None), [item])[0] for item in make()]
    machine = engine(14)
    found = tiny.run(machine, make())
    assert found == expected
    assert machine.preempted > 0
    assert held(machine) == [0, 0]


def test_nobody_waits_where_there_is_room():
    machine = engine(5 * 6)
    tiny.run(machine, requests(5, 20, 60, "greedy"))
    assert machine.preempted == 0


def test_the_newest_make_room_and_the_oldest_is_never_disturbed():
    machine = engine(12)
    items = requests(4, 20, 60, "greedy")
    for item in items:
        machine.submit(item)
    while machine.busy:
        machine.step()
        active, running = machine.scheduler.active, machine.scheduler.running
        assert running[: len(active)] == active  # those that wait are the newest
        assert not any(item.sequence.rows for item in running if item.paused)
    assert machine.preempted > 0


def test_others_begin_after_those_that_had_to_wait():
    machine = engine(12)
    first = requests(3, 20, 70, "greedy")
    for item in first:
        machine.submit(item)
    while not any(item.paused for item in first):
        machine.step()
    late = requests(1, 4, 2, "greedy")[0]
    machine.submit(late)
    while machine.busy:
        machine.step()
        if any(item.paused for item in first):
            assert late not in machine.scheduler.running
    assert late.done
    assert late.error is None


def test_a_request_begins_when_its_prompt_and_those_before_it_fit():
    machine = engine(10)
    items = requests(3, 60, 4, "greedy")  # 4 to 5 pages each
    for item in items:
        machine.submit(item)
    machine.step()
    assert machine.running == 2
    while machine.busy:
        machine.step()
    assert machine.preempted == 0
    assert all(item.error is None for item in items)


def test_a_request_that_fits_by_no_means_fails_alone():
    machine = engine(6)
    large, small = requests(1, 80, 60, "greedy")[0], requests(1, 10, 10, "greedy")[0]
    for item in (large, small):
        machine.submit(item)
    while machine.busy:
        machine.step()
    assert isinstance(large.error, CapacityError)
    assert "cache_memory" in str(large.error)
    assert len(large.sequence.answer) >= 6 * PAGE - 80 - 4  # what fitted was written
    assert small.error is None
    assert held(machine) == [0, 0]


def test_a_paused_request_can_be_cancelled():
    machine = engine(12)
    items = requests(4, 20, 60, "greedy")
    for item in items:
        machine.submit(item)
    while not any(item.paused for item in items):
        machine.step()
    paused = next(item for item in items if item.paused)
    machine.cancel(paused)
    while machine.busy:
        machine.step()
    assert paused.sequence.finish_reason == "cancelled"
    assert held(machine) == [0, 0]
    assert machine.running == 0


@settings(max_examples=25, deadline=None)
@given(
    pages=st.integers(8, 24),
    shapes=st.lists(
        st.tuples(
            st.integers(1, 50),
            st.integers(1, 50),
            st.sampled_from(["greedy", "sampled", "lenient", "steps"]),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_any_mixture_in_any_cache(pages: int, shapes: list[tuple[int, int, str]]):
    def make() -> list[Request]:
        return [requests(1, *shape)[0] for shape in shapes]

    expected = [tiny.run(engine(None), [item])[0] for item in make()]
    machine = engine(pages)
    items = make()
    for item in items:
        machine.submit(item)
    for _ in range(5_000):
        if not machine.busy:
            break
        machine.step()
    for item, answer in zip(items, expected, strict=True):
        assert item.done
        if item.error is None:
            assert item.sequence.answer == answer
        else:  # by itself it needs more pages than there are
            assert isinstance(item.error, CapacityError)
    assert held(machine) == [0, 0]
