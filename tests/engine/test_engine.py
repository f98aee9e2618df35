"""Requests come, wait, fail, are cancelled and go; nobody else notices."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import tiny
from stet.core.block import EMPTY, Reading
from stet.core.draft_length import FixedLength
from stet.core.errors import CapacityError, OptionError
from stet.core.limits import Limits
from stet.core.operations import Await, Draft, Join, Score
from stet.core.policy import TokenPolicy
from stet.core.row import PAGE
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.engine import Engine
from stet.engine.outcome import NonFiniteError
from stet.engine.request import Request
from stet.policies import DEFERRED, STANDARD_REASONS, Blocks, Exact, Need, Verification
from stet.programs import autoregressive, drafting, speculative

VOCAB = 30
TARGET = tiny.llama(vocab=VOCAB, seed=41)
DRAFT = tiny.near(TARGET, 0.05)
PROMPTS = [[(5 * i + n) % (VOCAB - 1) for i in range(2 + n)] for n in range(12)]


def limits(count: int = 10, tokens: int = 4, **more) -> Limits:
    return Limits(count, draft_length=FixedLength(tokens), **more)


def exact(place: int, **settings) -> Request:
    return tiny.request(PROMPTS[place], Exact(), settings.pop("limits", limits()), **settings)


def engine(**settings) -> Engine:
    return tiny.engine(TARGET, DRAFT, **settings)


def plain(place: int, count: int = 10) -> list[int]:
    return tiny.greedy(TARGET, PROMPTS[place], count)


def drain(machine: Engine, rounds: int = 2_000) -> None:
    """Run to the end, whatever becomes of the requests."""
    for _ in range(rounds):
        if not machine.busy:
            break
        machine.step()
    assert not machine.busy
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())


def submit(machine: Engine, *requests: Request) -> None:
    for request in requests:
        machine.submit(request)


# Coming and going


def test_more_requests_than_rows_queue_and_are_all_answered():
    machine = engine(rows=2, max_batch=5)
    requests = [exact(n) for n in range(12)]
    assert tiny.run(machine, requests) == [plain(n) for n in range(12)]
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())


def test_the_queue_has_a_limit():
    machine = Engine(engine().runners["target"], None, max_batch=1, max_waiting=2)
    submit(machine, exact(0), exact(1))
    with pytest.raises(CapacityError, match="2 requests are waiting"):
        machine.submit(exact(2))
    assert (machine.waiting, machine.running) == (2, 0)


def test_a_cancelled_request_keeps_what_it_has_and_frees_its_rows():
    machine = engine(rows=2)
    leaving, staying, waiting = exact(0), exact(1), exact(2)
    submit(machine, leaving, staying, waiting)
    while not leaving.sequence.answer:
        machine.step()
    machine.cancel(leaving)
    machine.cancel(waiting)
    machine.cancel(leaving)
    written = leaving.sequence.answer
    assert written == plain(0)[: len(written)]
    drain(machine)
    assert leaving.sequence.finish_reason == waiting.sequence.finish_reason == "cancelled"
    assert leaving.error is None
    assert waiting.sequence.answer == []
    assert staying.sequence.answer == plain(1)


def test_a_request_past_its_deadline_ends_with_what_it_has():
    machine = engine(rows=2)
    late, queued, staying = exact(0), exact(2), exact(1)
    late.deadline = time.monotonic() + 1000
    queued.deadline = 0.0
    submit(machine, late, staying, queued)
    while not late.sequence.answer:
        machine.step()
    late.deadline = time.monotonic()
    drain(machine)
    assert late.sequence.finish_reason == queued.sequence.finish_reason == "timeout"
    assert 0 < len(late.sequence.answer) < 10
    assert staying.sequence.answer == plain(1)


def test_progress_is_reported_after_each_round_and_at_the_end():
    machine = engine()
    request = exact(0)
    seen: list[tuple[int, bool]] = []
    request.on_growth = lambda r: seen.append((len(r.sequence.answer), r.done))
    request.on_end = request.on_growth
    tiny.run(machine, [request])
    assert [n for n, _ in seen] == sorted({n for n, _ in seen})
    assert seen[-1] == (10, True)
    assert request.seconds > 0


# Ending


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_the_number_of_tokens_is_exact(count: int, tokens: int):
    requests = [exact(n, limits=limits(count, tokens)) for n in range(4)]
    assert tiny.run(engine(), requests) == [plain(n, count) for n in range(4)]
    assert {r.sequence.finish_reason for r in requests} == {"length"}


def test_any_of_several_stop_tokens_ends_an_answer_wherever_it_is_in_a_block():
    for place in range(6):
        whole = plain(place, 20)
        stops = frozenset({whole[7], whole[11]})
        first = min(whole.index(token) for token in stops)
        request = exact(place, limits=limits(20, 6, stop_token_ids=stops))
        assert tiny.run(engine(), [request]) == [whole[: first + 1]]
        assert request.sequence.finish_reason == "stop"


def test_a_stop_string_ends_an_answer_across_tokens_and_blocks():
    letters = tiny.Letters()
    for place in range(6):
        whole = plain(place, 20)
        text = letters.decode(whole)
        stop = text[7:10]
        request = exact(place, limits=limits(20, 3, stop_strings=("#", stop)), decoder=letters)
        tiny.run(engine(), [request])
        assert request.sequence.text() == text[: text.index(stop)]
        assert request.sequence.answer == whole[: text.index(stop) + 3]
        assert request.sequence.finish_reason == "stop"


# Failing


def test_a_program_that_raises_fails_alone():
    def broken(sequence: TokenSequence, policy: Exact):
        yield Draft(sequence, 2)
        raise ZeroDivisionError("mine")

    machine = engine(rows=3)
    guilty, other = exact(0, program=broken), exact(1)
    submit(machine, guilty, other)
    drain(machine)
    assert isinstance(guilty.error, ZeroDivisionError)
    assert guilty.sequence.finish_reason == "error"
    assert other.sequence.answer == plain(1)


def test_a_program_that_raises_when_it_is_closed_fails_alone():
    def stubborn(sequence: TokenSequence, policy: Exact):
        try:
            yield from speculative(sequence, policy)
        finally:
            raise ZeroDivisionError("while closing")

    machine = engine(rows=3)
    guilty, other = exact(0, program=stubborn), exact(1)
    submit(machine, guilty, other)
    machine.step()
    machine.cancel(guilty)
    drain(machine)
    assert other.sequence.answer == plain(1)


def test_a_program_that_yields_nonsense_is_told_so():
    def nonsense(sequence: TokenSequence, policy: Exact):
        yield 42

    machine = engine()
    request = exact(0, program=nonsense)
    submit(machine, request)
    drain(machine)
    assert isinstance(request.error, TypeError)


def test_drafting_without_a_draft_is_refused():
    machine = Engine(engine().runners["target"], None)
    request, other = exact(0), exact(1, program=autoregressive)
    submit(machine, request, other)
    drain(machine)
    assert "no draft" in str(request.error)
    assert other.sequence.answer == plain(1)


@dataclass(frozen=True)
class Fussy(Exact):
    """Exact, but it cannot bear blocks of a certain length."""

    name: ClassVar[str] = "fussy"
    hated: int = 3
    how: str = "raise"

    def verify(self, blocks: Blocks) -> Verification:
        guilty = blocks.lengths == self.hated
        verification = super().verify(blocks)
        if not guilty.any():
            return verification
        if self.how == "raise":
            raise ValueError("three is too many")
        if self.how == "shape":
            return Verification(verification.accepted[:-1], verification.next_token)
        if self.how == "too many accepted":
            return Verification(
                torch.where(guilty, 99, verification.accepted), verification.next_token
            )
        if self.how == "nothing":
            return Verification(
                torch.where(guilty, 0, verification.accepted),
                torch.where(guilty, DEFERRED, verification.next_token),
            )
        reasons = torch.where(guilty, 77, 0)[:, None].expand(-1, blocks.drafted.shape[1] + 1)
        return Verification(verification.accepted, verification.next_token, reasons)


@pytest.mark.parametrize("how", ["raise", "shape", "too many accepted", "nothing", "reasons"])
def test_a_failing_policy_fails_only_the_request_that_it_fails_on(how: str):
    machine = engine(rows=8)
    requests = [
        tiny.request(PROMPTS[n], Fussy(how=how), limits(10, 3 if n == 2 else 2)) for n in range(5)
    ]
    requests.append(exact(5))
    submit(machine, *requests)
    drain(machine)
    for n, request in enumerate(requests):
        if n == 2:
            assert request.error is not None
            assert request.sequence.finish_reason == "error"
        else:
            assert request.error is None
            assert request.sequence.answer == plain(n)


@pytest.mark.parametrize("program", [speculative, autoregressive])
def test_an_option_that_only_the_models_can_refuse_fails_alone(program):
    machine = engine(rows=4)
    guilty = exact(0, sampling=SamplingParams(logit_bias={VOCAB + 5: 1.0}), program=program)
    submit(machine, guilty, exact(1), exact(2))
    drain(machine)
    assert isinstance(guilty.error, OptionError)


def test_a_sequence_longer_than_its_cache_fails_alone():
    machine = engine(rows=3, max_length=24)
    long, short = exact(0, limits=limits(100)), exact(1)
    submit(machine, long, short)
    drain(machine)
    assert isinstance(long.error, CapacityError)
    assert long.sequence.answer == plain(0, len(long.sequence.answer))
    assert short.sequence.answer == plain(1)


@pytest.mark.parametrize("role", ["target", "draft"])
def test_values_that_are_no_numbers_stay_in_their_request(role: str):
    # One token's embedding is poison; only the guilty prompt holds it.
    poison = VOCAB - 1
    poisoned = {"target": tiny.near(TARGET, 0.0), "draft": tiny.near(DRAFT, 0.0)}
    with torch.no_grad():
        poisoned[role].model.embed_tokens.weight[poison] = math.nan
    machine = tiny.engine(poisoned["target"], poisoned["draft"], rows=3)
    guilty = tiny.request([1, poison, 2, 3], Exact(), limits())
    # The others must not draft it either.
    never = SamplingParams(logit_bias={poison: -1e4})
    others = [exact(n, sampling=never) for n in (1, 2)]
    submit(machine, guilty, *others)
    drain(machine)
    if role == "target":
        assert isinstance(guilty.error, NonFiniteError)
    else:
        # A draft that is lost only costs speed.
        assert guilty.sequence.answer == tiny.greedy(TARGET, [1, poison, 2, 3], 10)
    assert [r.sequence.answer for r in others] == [plain(1), plain(2)]
    # The rows are clean again.
    again = [exact(n, sampling=never) for n in range(1, 6)]
    assert tiny.run(machine, again) == [plain(n) for n in range(1, 6)]


def test_what_is_no_number_is_not_kept_for_the_next_one():
    """Neither by the candidate that met it nor by the text that it continues."""
    machine = tiny.engine(TARGET, DRAFT, rows=4)
    target = machine.runners["target"]
    target.keep_texts(True)
    prompt = [(3 * i) % VOCAB for i in range(40)]

    def faulty(sequence, policy):
        with sequence.fork(2) as children:
            yield Join([once(child, policy) for child in children])

    def once(child, policy):
        yield Score(child, EMPTY, policy)
        first = child.rows["target"].pages[0] * PAGE
        target.cache.values[0][first : first + PAGE] = math.nan  # a fault of the device, say
        yield Score(child, EMPTY, policy)

    guilty = tiny.request(prompt, Exact(), limits(), program=faulty)
    submit(machine, guilty)
    drain(machine)
    assert isinstance(guilty.error, NonFiniteError)
    again = tiny.request(prompt, Exact(), limits())
    assert tiny.run(machine, [again]) == [tiny.greedy(TARGET, prompt, 10)]


# Things outside


def test_awaiting_something_outside_holds_nobody_up():
    async def answer(value: int) -> int:
        await asyncio.sleep(0.05)
        return value

    def patient(sequence: TokenSequence, policy: Exact):
        for n in range(2):
            assert (yield Await(answer(n))) == n
        yield from speculative(sequence, policy)

    machine = engine()
    waiting, other = exact(0, program=patient), exact(1)
    submit(machine, waiting, other)
    while not other.done:
        machine.step()
    assert not waiting.done
    drain(machine)
    assert waiting.error is None
    assert waiting.sequence.answer == plain(0)


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
def test_an_error_outside_reaches_the_program_that_waited(kind: type[BaseException]):
    async def fail() -> None:
        raise kind("outside")

    def careful(sequence: TokenSequence, policy: Exact):
        with pytest.raises(Exception):  # noqa: B017, PT011
            yield Await(fail())
        yield from speculative(sequence, policy)

    def careless(sequence: TokenSequence, policy: Exact):
        yield Await(fail())

    machine = engine()
    first, second, other = exact(0, program=careful), exact(1, program=careless), exact(2)
    submit(machine, first, second, other)
    drain(machine)
    assert first.sequence.answer == plain(0)
    assert second.error is not None
    assert other.sequence.answer == plain(2)


def test_cancelling_a_request_cancels_what_it_awaits():
    cancelled: list[bool] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    def patient(sequence: TokenSequence, policy: Exact):
        yield Await(forever())

    machine = engine()
    request = exact(0, program=patient)
    machine.submit(request)
    machine.step()
    machine.step()
    machine.cancel(request)
    drain(machine)
    deadline = time.monotonic() + 5
    while not cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cancelled


# Children


def test_join_returns_the_results_in_order_and_nests():
    async def later(value: str) -> str:
        await asyncio.sleep(0.01)
        return value

    def leaf(value: str):
        return (yield Await(later(value)))

    def branch(value: str):
        return (yield Join([leaf(value + "1"), leaf(value + "2")]))

    def root(sequence: TokenSequence, policy: Exact):
        assert (yield Join([])) == []
        assert (yield Join([branch("a"), leaf("b"), branch("c")])) == [
            ["a1", "a2"],
            "b",
            ["c1", "c2"],
        ]
        yield from speculative(sequence, policy)

    request = exact(0, program=root)
    assert tiny.run(engine(), [request]) == [plain(0)]


def steps(count: int, nested: bool = False):
    """A program that forks candidates for every step of three tokens and adopts the last."""

    def write(sequence: TokenSequence, policy: Exact):
        if nested:
            with sequence.fork(2) as inner:
                yield Join([write_flat(c, policy) for c in inner])
                sequence.adopt(inner[0])
        else:
            yield from write_flat(sequence, policy)

    def write_flat(sequence: TokenSequence, policy: Exact):
        for _ in range(min(3, sequence.remaining)):
            if not sequence.finished:
                sequence.commit((yield Score(sequence, EMPTY, policy)))

    def program(sequence: TokenSequence, policy: Exact):
        while not sequence.finished:
            with sequence.fork(count) as candidates:
                yield Join([write(c, policy) for c in candidates])
                sequence.adopt(candidates[-1])

    return program


def test_forks_within_forks_give_the_targets_text():
    requests = [exact(n, program=steps(2, nested=True)) for n in range(2)]
    machine = engine(rows=16)
    assert tiny.run(machine, requests) == [plain(0), plain(1)]
    assert machine.runners["target"].rows_in_use == 0


def test_children_that_wait_for_rows_take_turns():
    machine = engine(rows=5, max_batch=3)
    requests = [exact(n, program=steps(2)) for n in range(3)]
    assert tiny.run(machine, requests) == [plain(n) for n in range(3)]


def test_children_that_can_never_all_have_rows_end_with_a_clear_error():
    machine = engine(rows=3, max_batch=2)
    greedy_one, other = exact(0, program=steps(5)), exact(1)
    submit(machine, other, greedy_one)
    drain(machine)
    assert isinstance(greedy_one.error, CapacityError)
    assert "rows" in str(greedy_one.error)
    assert other.sequence.answer == plain(1)
    assert tiny.run(machine, [exact(2)]) == [plain(2)]


def test_a_child_that_fails_takes_its_family_with_it_and_frees_every_row():
    def bad(sequence: TokenSequence):
        yield Score(sequence, EMPTY, Exact())
        raise ZeroDivisionError

    def family(sequence: TokenSequence, policy: Exact):
        with sequence.fork(3) as (a, b, c):
            yield Join([speculative(a, policy), bad(b), speculative(c, policy)])

    machine = engine()
    request, other = exact(0, program=family), exact(1)
    submit(machine, request, other)
    drain(machine)
    assert isinstance(request.error, ZeroDivisionError)
    assert other.sequence.answer == plain(1)


def test_cancelling_in_the_middle_of_a_fork_frees_every_row():
    machine = engine()
    request = exact(0, program=steps(3))
    machine.submit(request)
    machine.step()
    machine.step()
    assert machine.runners["target"].rows_in_use == 4
    machine.cancel(request)
    drain(machine)


# Programs and policies


def test_a_draft_alone_writes_its_own_text_in_chunks():
    request = exact(0, limits=limits(10), program=lambda s, _: drafting(s))
    assert tiny.run(engine(), [request]) == [tiny.greedy(DRAFT, PROMPTS[0], 10)]
    assert request.sequence.counters.target_passes == 0
    assert set(request.sequence.origins) == {"draft"}


@dataclass(frozen=True)
class AlwaysDraft(TokenPolicy):
    """Accepts every drafted token and defers the next one, except where nothing was drafted."""

    name: ClassVar[str] = "always-draft"
    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    reasons: ClassVar[tuple[str, ...]] = STANDARD_REASONS

    def verify(self, blocks: Blocks) -> Verification:
        nothing = blocks.lengths == 0
        return Verification(
            blocks.lengths, torch.where(nothing, blocks.target_tokens[:, 0], torch.tensor(DEFERRED))
        )


@pytest.mark.parametrize("tokens", [1, 3, 4, 5])
def test_a_policy_may_defer_the_next_token(tokens: int):
    # The last token of an answer is always the target's: a block leaves room for it.
    count = 13
    requests = [tiny.request(PROMPTS[n], AlwaysDraft(), limits(count, tokens)) for n in range(4)]
    tiny.run(engine(), requests)
    for n, request in enumerate(requests):
        sequence = request.sequence
        drafted = tiny.greedy(DRAFT, PROMPTS[n], count - 1)
        assert sequence.answer[:-1] == drafted
        assert sequence.answer[-1:] == tiny.greedy(TARGET, PROMPTS[n] + drafted, 1)
        counters = sequence.counters
        assert counters.accepted_tokens == counters.drafted_tokens == count - 1
        assert counters.target_passes == math.ceil((count - 1) / tokens) + 1
        assert all(block.next_token is None for block in sequence.blocks)


def test_counters_add_up():
    requests = [exact(n, limits=limits(17, 5, probabilities=True)) for n in range(8)]
    tiny.run(engine(), requests)
    for request in requests:
        sequence, counters = request.sequence, request.sequence.counters
        assert counters.emitted_tokens == len(sequence.answer) == 17
        assert counters.accepted_tokens == sequence.origins.count("draft")
        assert counters.target_passes == sequence.origins.count("target")
        assert counters.accepted_tokens == sum(counters.accepted_per_position)
        assert counters.accepted_tokens <= counters.drafted_tokens
        assert counters.drafts == len(sequence.blocks) <= counters.target_passes
        assert counters.drafted_tokens == sum(len(b.drafted) for b in sequence.blocks)
        assert counters.draft_passes == counters.drafted_tokens
        assert counters.target_seconds > 0
        assert counters.draft_seconds > 0
        assert all(p is not None and 0 < p <= 1 for p in [e.p_target for e in sequence.emitted])
        for block in sequence.blocks:
            emitted = sequence.answer[block.position : block.position + block.accepted]
            assert emitted == block.drafted[: block.accepted]
            assert sequence.answer[block.position + block.accepted] == block.next_token
            assert block.accepted_mismatches == []
        for origin, reason in zip(sequence.origins, sequence.reasons, strict=True):
            assert (origin == "draft") == (reason == "accepted")


def test_recorded_probabilities_are_the_models_own():
    request = exact(3, limits=limits(9, 4, probabilities=True, top_logprobs=2))
    tiny.run(engine(), [request])
    sequence = request.sequence
    tokens = torch.tensor([sequence.tokens])
    with torch.inference_mode():
        target = TARGET(tokens).logits[0].log_softmax(-1)
        draft = DRAFT(tokens).logits[0].softmax(-1)
    for i, token in enumerate(sequence.answer):
        before = sequence.prompt_length + i - 1
        assert sequence.emitted[i].p_target == pytest.approx(
            target[before, token].exp().item(), rel=1e-3
        )
        if sequence.emitted[i].p_draft is not None:
            assert sequence.emitted[i].p_draft == pytest.approx(
                draft[before, token].item(), rel=1e-3
            )
        best = target[before].topk(2)
        assert list(sequence.emitted[i].top_logprobs) == best.indices.tolist()
        assert list(sequence.emitted[i].top_logprobs.values()) == pytest.approx(
            best.values.tolist(), 1e-3
        )
    assert any(p is not None for p in [e.p_draft for e in sequence.emitted])


@pytest.mark.parametrize("ruled", [False, True])
def test_the_target_can_be_asked_what_it_thinks_of_a_block(ruled: bool):
    found: list[Reading] = []

    def scoring(sequence: TokenSequence, policy: Exact):
        block = yield Draft(sequence, 4)
        if ruled:
            acceptance = yield Score(sequence, block, policy, reading=True)
            found.append(acceptance.reading)
        else:
            found.append((yield Score(sequence, block, None)))
        sequence.commit(block)
        yield from speculative(sequence, policy)

    request = exact(0, program=scoring)
    (answer,) = tiny.run(engine(), [request])
    tokens = torch.tensor([PROMPTS[0] + answer])
    with torch.inference_mode():
        logprobs = TARGET(tokens).logits[0].log_softmax(-1)
    start = len(PROMPTS[0])
    (reading,) = found
    for i in range(4):
        at, token = logprobs[start + i - 1], answer[i]
        assert reading.logprobs[i] == pytest.approx(at[token].item(), abs=1e-4)
        others = torch.cat((at[:token], at[token + 1 :]))
        assert reading.margins[i] == pytest.approx((at[token] - others.max()).item(), abs=1e-4)
