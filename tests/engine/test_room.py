"""Caches too small for all requests: who may begin, who has to wait, and what they write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from stet.core.block import EMPTY
from stet.core.draft_length import FixedLength
from stet.core.errors import CapacityError
from stet.core.limits import Limits
from stet.core.operations import Await, Draft, Score
from stet.core.row import PAGE
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.drafting import OVERLAP, ModelDrafter
from stet.engine.engine import Engine
from stet.engine.request import Request
from stet.engine.room import Room
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


def run_until_one_waits(machine: Engine, items: list[Request]) -> None:
    for item in items:
        machine.submit(item)
    while not any(item.paused for item in items):
        machine.step()


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
    run_until_one_waits(machine, first)
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
    run_until_one_waits(machine, items)
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
        else:
            assert isinstance(item.error, CapacityError)
    assert held(machine) == [0, 0]
    # Who failed needs more pages than there are by itself, too.
    for item, again in zip(items, make(), strict=True):
        if item.error is not None:
            with pytest.raises(CapacityError):
                tiny.run(engine(pages), [again])


@pytest.mark.parametrize(
    ("length", "valid", "candidates", "role"),
    [(17, 16, 3, "draft"), (32, 32, 3, "target"), (22, 16, 3, "draft"), (40, 40, 1, "draft")],
)
def test_what_is_counted_as_enough_is_enough(
    length: int, valid: int, candidates: int, role: Any
) -> None:
    """Candidates of a text that the cache has read in part: from no page too few to enough."""
    tokens = [(3 * i) % 50 for i in range(length)]
    needed: list[int] = []
    for pages in range(2, 14):
        machine = engine(pages)
        sequence = TokenSequence(tokens, SamplingParams(), Limits(max_new_tokens=20))
        sequence.release = machine._release
        runner = machine.runners[role]
        row = sequence.rows[role] = runner.allocate()
        try:
            runner.forward([row], torch.tensor([tokens[:valid]]), [0])
        except CapacityError:
            continue
        with sequence.fork(candidates) as children:
            if role == "draft":
                operations: list[Any] = [Draft(child, 5) for child in children]
            else:
                operations = [Score(child, EMPTY, Exact()) for child in children]
            if not Room(machine.runners).suffices(operations, role):
                continue
            keep = OVERLAP if role == "draft" else 1
            for _ in range(9):
                states = machine._prefill.run(children, role, keep).states
            assert states == [True] * candidates
            if role == "draft":
                machine.drafter.run(operations)
            else:
                for child in children:
                    runner.forward([child.rows[role]], torch.tensor([[1]]), [len(tokens) - 1])
            needed.append(pages)
            used = runner.pages - runner.pages_free
            if len(needed) == 1:
                assert used >= pages - candidates, "many more were asked for than were needed"
    assert needed


def test_a_question_beside_a_text_takes_the_places_of_the_text() -> None:
    """Where nothing is read yet, its pages are not counted twice."""
    sequence = TokenSequence([1] * 148, SamplingParams(), Limits(max_new_tokens=20))
    with sequence.side_query([2] * 12) as child:
        operation = Score(child, EMPTY, Exact())
        assert Room(engine(10).runners).suffices([operation], "target")
        assert not Room(engine(9).runners).suffices([operation], "target")


def test_pages_that_are_spared_stay_free() -> None:
    machine = engine(14)
    spared = Engine(
        machine.runners["target"], machine.drafter, max_batch=8, prefill_chunk=32, spare_pages=3
    )
    expected = [tiny.run(engine(None), [item])[0] for item in requests(4, 20, 60, "greedy")]
    items = requests(4, 20, 60, "greedy")
    for item in items:
        spared.submit(item)
    while spared.busy:
        spared.step()
        assert min(runner.pages_free for runner in spared.runners.values()) >= 3
    assert [item.sequence.answer for item in items] == expected
    assert spared.preempted > 0


@pytest.mark.parametrize("fails", [False, True])
def test_who_is_paused_goes_on_when_the_last_one_at_work_leaves(fails: bool) -> None:
    """Also where that one leaves in a round in which no model runs."""

    async def outside() -> None:
        await asyncio.sleep(0.2)
        if fails:
            raise RuntimeError("the reward failed")

    def awaiting(sequence: TokenSequence, policy: Any) -> Any:
        yield Score(sequence, EMPTY, Exact())
        yield Await(outside())

    machine = engine(12)
    first = tiny.request([1] * 90, Exact(), Limits(max_new_tokens=9), program=awaiting)
    others = requests(2, 40, 40, "greedy")
    expected = [tiny.run(engine(None), [item])[0] for item in requests(2, 40, 40, "greedy")]
    for item in (first, *others):
        machine.submit(item)
    rounds = 0
    while machine.busy:
        machine.step()
        rounds += 1
    assert (first.error is not None) == fails
    assert [item.error for item in others] == [None, None]
    assert [item.sequence.answer for item in others] == expected
    assert rounds < 300, "it looked again and again while there was nothing to do"
