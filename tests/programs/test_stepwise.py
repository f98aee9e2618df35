"""Step by step through a real engine: texts, costs, rows and records."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import tiny
from feeding import Fed
from stet.core import trace
from stet.core.draft_length import AdaptiveLength, FixedLength
from stet.core.errors import OptionError, StetError
from stet.core.limits import Limits
from stet.core.model import LoadedModel
from stet.core.operations import Await, Operation
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.steps import ends_of
from stet.engine.drafting import OVERLAP
from stet.engine.engine import Engine
from stet.engine.kv_cache import KVCache
from stet.engine.request import Request
from stet.pair import Pair
from stet.policies import (
    BlockVerification,
    Exact,
    Policy,
    SpecGuard,
    Step,
    StepDecision,
    parameters,
)
from stet.programs.target_side import CUT_SHORT
from stet.requests.jobs import AnswerJob
from stet.requests.methods import method_of

VOCAB, COUNT, ROOM = 40, 32, 240
TARGET = tiny.llama(vocab=VOCAB, layers=1, seed=47)
DRAFT = tiny.near(TARGET, 0.04)
PROMPTS = [[(7 * i * i + n) % VOCAB for i in range(n)] for n in range(2, 7)]
PLACES = range(len(PROMPTS))
LINE_BREAKS = range(8)
"""Tokens that read as a line break: enough for steps of a few tokens."""

ACCEPT, REWRITE = SpecGuard(threshold=0.0), SpecGuard(threshold=1.0)
SOMETIMES = SpecGuard(threshold=0.25)
BAND = SpecGuard(threshold=0.4, lower=0.05, target_threshold=0.05, step_tokens=7)
VOTING = SpecGuard(candidates=3, temperature=0.8, threshold=0.25)


class Lines:
    """A tokenizer's decoding half with one character for each token."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        del skip_special_tokens
        return "".join("\n" if t in LINE_BREAKS else chr(ord("A") + t) for t in token_ids)


def text(tokens: list[int]) -> str:
    return Lines().decode(tokens)


# What the program should do, by the models alone


@dataclass(frozen=True)
class Written:
    """A text with its steps: their lengths, and whether each is the draft's."""

    answer: list[int]
    lengths: list[int]
    accepted: list[bool]


@cache
def logits(role: str, tokens: tuple[int, ...]) -> torch.Tensor:
    """Logits of the next token, by a pass over the whole prefix."""
    with torch.inference_mode():
        model = TARGET if role == "target" else DRAFT
        return model(torch.tensor([tokens])).logits[0, -1]


def step(role: str, prefix: list[int], room: int, stops: frozenset[int] = frozenset()) -> list[int]:
    """A greedy step: up to a line break behind something else."""
    written: list[int] = []
    while len(written) < room:
        written.append(int(logits(role, (*prefix, *written)).argmax()))
        holds_text = any(t not in LINE_BREAKS for t in written)
        if written[-1] in stops or (holds_text and written[-1] in LINE_BREAKS):
            break
    return written


def least(prefix: list[int], written: list[int]) -> float:
    """The smallest probability of a token under the draft."""
    found = [
        logits("draft", (*prefix, *written[:i])).softmax(-1)[token].item()
        for i, token in enumerate(written)
    ]
    return min(found)


def trust(prefix: list[int], written: list[int]) -> float:
    """How many times its own favourite's probability the target gives a token; the least."""
    found: list[float] = []
    for i, token in enumerate(written):
        probs = logits("target", (*prefix, *written[:i])).softmax(-1)
        found.append((probs[token] / probs.max()).item())
    return min(found)


def expected(
    place: int,
    policy: SpecGuard,
    count: int = COUNT,
    stops: frozenset[int] = frozenset(),
) -> Written:
    """The answer that a greedy policy with the signal `min_logprob` should write."""
    prompt = PROMPTS[place]
    tokens = list(prompt)
    lengths: list[int] = []
    accepted: list[bool] = []
    while (room := len(prompt) + count - len(tokens)) and not (lengths and tokens[-1] in stops):
        # What is judged is a whole step, however little of it there is room for.
        written = step("draft", tokens, policy.step_tokens, stops)
        score = least(tokens, written)
        accepts = score >= policy.threshold
        if policy.scorer == "target" or (
            not accepts and policy.lower is not None and score >= policy.lower
        ):
            accepts = trust(tokens, written) >= policy.target_threshold
        if policy.shadow or not accepts:
            written = step("target", tokens, policy.step_tokens, stops)
        tokens += written[:room]
        lengths.append(len(written[:room]))
        accepted.append(accepts and not policy.shadow)
    return Written(tokens[len(prompt) :], lengths, accepted)


# The program at work


def limits(count: int = COUNT, tokens: int = 4, chunk: int = 16, **more) -> Limits:
    return Limits(count, room=ROOM, draft_length=FixedLength(tokens), chunk=chunk, **more)


def request(
    place: int,
    policy: Policy,
    bounds: Limits | None = None,
    sampling: SamplingParams | None = None,
) -> Request:
    method = method_of(policy, None, has_draft=True)
    sequence = TokenSequence(
        PROMPTS[place], sampling or SamplingParams(), bounds or limits(), Lines()
    )
    return Request(sequence, method.maker.program(sequence), rows=method.rows)


def engine(**settings) -> Engine:
    return tiny.engine(TARGET, DRAFT, **settings)


def run(*requests: Request, machine: Engine | None = None) -> list[TokenSequence]:
    machine = machine or engine()
    tiny.run(machine, list(requests))
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())
    return [r.sequence for r in requests]


def drain(machine: Engine) -> None:
    for _ in range(2_000):
        if not machine.busy:
            break
        machine.step()
    assert not machine.busy
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())


# Texts


@pytest.mark.parametrize(("policy", "role"), [(ACCEPT, "draft"), (REWRITE, "target")])
def test_always_accepted_is_the_drafts_text_and_never_accepted_the_targets(
    policy: SpecGuard, role: str
):
    model = DRAFT if role == "draft" else TARGET
    for sequence, place in zip(run(*(request(n, policy) for n in PLACES)), PLACES, strict=True):
        assert sequence.answer == tiny.greedy(model, PROMPTS[place], COUNT)
        assert {s.decision for s in sequence.steps} == {
            "accepted" if role == "draft" else "rewritten"
        }


@pytest.mark.parametrize(
    ("policy", "alone"),
    [(ACCEPT, "draft"), (REWRITE, "target"), (replace(REWRITE, speculate=False), "target")],
    ids=["accept", "rewrite", "rewrite alone"],
)
def test_penalties_count_the_answer_whoever_writes_its_steps(policy: SpecGuard, alone: Any):
    sampling = SamplingParams(frequency_penalty=0.8, presence_penalty=1.2)
    wanted = run(*(request(n, alone, sampling=sampling) for n in PLACES))
    found = run(*(request(n, policy, sampling=sampling) for n in PLACES))
    assert [s.answer for s in found] == [s.answer for s in wanted]
    assert all(len(s.steps) > 2 for s in found)
    plain = run(*(request(n, alone) for n in PLACES))
    assert [s.answer for s in plain] != [s.answer for s in wanted]


def test_a_shadow_run_writes_the_targets_text_and_records_what_it_would_have_accepted():
    (sequence,) = run(request(0, SpecGuard(threshold=0.0, shadow=True)))
    assert sequence.answer == tiny.greedy(TARGET, PROMPTS[0], COUNT)
    assert {s.decision for s in sequence.steps} == {"accepted"}
    assert sequence.counters.accepted_steps == 0
    assert all(s.target_candidates for s in sequence.steps)
    assert "step accepted" not in sequence.reasons


CASES = [
    (16, FixedLength(4), 16),
    (1, FixedLength(1), 16),
    (3, FixedLength(7), 2),
    (64, AdaptiveLength(draft_cost=0.2, by_confidence=True), 16),
    (5, FixedLength(5, min_confidence=0.5), 3),
]


@pytest.mark.parametrize(("chunk", "rule", "rows"), CASES)
def test_texts_depend_neither_on_lengths_nor_on_batch_mates(chunk: int, rule: Any, rows: int):
    bounds = Limits(COUNT, room=ROOM, draft_length=rule, chunk=chunk)
    policies = [(SOMETIMES, BAND)[n % 2] for n in PLACES]
    stepwise = [request(n, policies[n], bounds) for n in PLACES]
    plain = [request(n, (Exact(), BlockVerification())[n % 2], bounds) for n in PLACES]
    mixed = [r for pair in zip(stepwise, plain, strict=True) for r in pair]
    run(*mixed, machine=engine(rows=rows, chunk=5))
    both = set()
    for place in PLACES:
        sequence, reference = stepwise[place].sequence, expected(place, policies[place])
        assert sequence.answer == reference.answer
        assert [s.tokens for s in sequence.steps] == reference.lengths
        assert [s.decision == "accepted" for s in sequence.steps] == reference.accepted
        assert plain[place].sequence.answer == tiny.greedy(TARGET, PROMPTS[place], COUNT)
        both |= set(reference.accepted)
    assert both == {True, False}


def test_where_nobody_looks_while_drafting_more_is_written_and_cut_off():
    machine = engine()
    machine.drafter._looks = False
    sequences = run(*(request(n, SOMETIMES) for n in PLACES), machine=machine)
    for place in PLACES:
        assert sequences[place].answer == expected(place, SOMETIMES).answer
        steps = sequences[place].steps
        assert [len(c.text) for s in steps for c in s.candidates] == [s.draft_tokens for s in steps]


def once_more_is_known(text: str) -> int | None:
    """The end of a line, seen only when the next one has begun."""
    end = ends_of("\n")(text)
    return end if end is not None and end < len(text) else None


@pytest.mark.parametrize(("threshold", "model"), [(0.0, DRAFT), (1.0, TARGET)])
def test_a_step_whose_end_shows_later_is_cut_there(threshold: float, model: Any):
    policy = SpecGuard(threshold=threshold, delimiter=once_more_is_known)
    lines = SpecGuard(threshold=threshold)
    for place, sequence in enumerate(run(*(request(n, policy) for n in PLACES))):
        assert sequence.answer == tiny.greedy(model, PROMPTS[place], COUNT)
        assert [s.tokens for s in sequence.steps] == expected(place, lines).lengths
        assert sequence.counters.emitted_tokens == COUNT
        for record in sequence.steps:
            (candidate,) = record.candidates
            prefix = PROMPTS[place] + sequence.answer[: record.position]
            assert record.score == pytest.approx(least(prefix, candidate.ids), rel=1e-3)


def test_the_target_alone_may_judge():
    policy = SpecGuard(scorer="target", target_threshold=0.02)
    accepted = []
    for place, sequence in enumerate(run(*(request(n, policy) for n in PLACES))):
        assert sequence.answer == expected(place, policy).answer
        for record in sequence.steps:
            assert record.score is not None
            assert (record.score >= 0.02) == (record.decision == "accepted")
            accepted.append(record.decision)
    assert set(accepted) == {"accepted", "rewritten"}


@pytest.mark.parametrize("policy", [ACCEPT, REWRITE, SOMETIMES], ids="ars")
def test_a_stop_token_inside_a_step_ends_the_answer(policy: SpecGuard):
    stops = [frozenset({expected(n, policy).answer[20]}) for n in PLACES]
    sequences = run(*(request(n, policy, limits(stop_token_ids=stops[n])) for n in PLACES))
    for place, sequence in enumerate(sequences):
        reference = expected(place, policy, stops=stops[place])
        assert sequence.answer == reference.answer
        assert sequence.finish_reason == "stop"
        assert sequence.text() == text(reference.answer[:-1])
        assert sequence.counters.emitted_tokens == len(reference.answer) <= 21


@pytest.mark.parametrize("policy", [ACCEPT, REWRITE, SOMETIMES], ids="ars")
def test_an_answer_is_as_long_as_asked_for(policy: SpecGuard):
    counts = (1, 2, 3, 9, 10, 11)
    sequences = run(*(request(1, policy, limits(count)) for count in counts))
    for count, sequence in zip(counts, sequences, strict=True):
        assert sequence.answer == expected(1, policy, count).answer
        assert (sequence.finish_reason, len(sequence.answer)) == ("length", count)


@pytest.mark.parametrize(("policy", "model"), [(ACCEPT, DRAFT), (REWRITE, TARGET)])
def test_stop_strings_are_found_inside_steps_and_across_them(policy: SpecGuard, model: Any):
    requests: list[Request] = []
    texts: list[list[int]] = []
    stops: list[str] = []
    for place in PLACES:
        plain = tiny.greedy(model, PROMPTS[place], COUNT)
        middle = text(plain).rindex("\n", 0, COUNT - 6)
        for width in (0, 1, 4):  # characters on either side of the line break
            stops.append(text(plain)[max(0, middle - width) : middle + 1 + width])
            texts.append(plain)
            bounds = limits(stop_strings=(stops[-1],), stream=width == 1)
            requests.append(request(place, policy, bounds))
    for sequence, plain, stop in zip(run(*requests), texts, stops, strict=True):
        end = text(plain).index(stop)
        assert sequence.finish_reason == "stop"
        assert sequence.text() == text(plain)[:end]
        assert sequence.answer == plain[: end + len(stop)]
        assert sum(s.tokens for s in sequence.steps) == len(sequence.answer)
        assert sequence.counters.emitted_tokens == len(sequence.answer)


def test_a_draft_that_goes_in_circles_is_stopped():
    # The bias makes the one token; three of them are a step.
    policy = SpecGuard(threshold=0.0, step_tokens=3)
    same = SamplingParams(logit_bias={9: 1e4})
    long = limits(60)
    (sequence,) = run(request(0, policy, long, same))
    assert sequence.finish_reason == "loop"
    assert sequence.answer == [9] * 48  # sixteen steps
    for other in (
        SpecGuard(threshold=0.0, step_tokens=3, loop_after=0),
        # What the target writes is its own text.
        SpecGuard(threshold=1.0, step_tokens=3, loop_after=2),
        SpecGuard(threshold=0.0, step_tokens=3, loop_after=2, shadow=True),
    ):
        (sequence,) = run(request(0, other, long, same))
        assert (sequence.finish_reason, sequence.answer) == ("length", [9] * 60)
    (sequence,) = run(request(0, SpecGuard(threshold=0.0, step_tokens=3, loop_after=5), long, same))
    assert (sequence.finish_reason, sequence.answer) == ("loop", [9] * 15)


# Streaming


@pytest.mark.parametrize("policy", [ACCEPT, REWRITE, SOMETIMES, VOTING])
@pytest.mark.parametrize("stop", [(), ("\nT", "P\n")])
def test_a_stream_hands_out_each_text_once(policy: SpecGuard, stop: tuple[str, ...]):
    machine = engine()
    for place in PLACES[:3]:
        job = AnswerJob(
            request(place, policy, limits(stream=True, stop_strings=stop)), "", SETTINGS
        )
        machine.submit(job.request)
        chunks = []
        while not job.request.done:
            machine.step()
            if (chunk := job.news()) is not None:
                chunks.append(chunk)
        sequence = job.request.sequence
        assert [t.id for chunk in chunks for t in chunk.tokens] == sequence.answer
        whole = "".join(chunk.text for chunk in chunks)
        ends = [at for s in stop if (at := text(sequence.answer).find(s)) >= 0]
        assert whole == text(sequence.answer)[: min(ends, default=None)] == sequence.text()
        assert chunks[-1].finish_reason == sequence.finish_reason
        assert stop or len(chunks) > 2


# What it costs


@pytest.mark.parametrize("chunk", [3, 16])
def test_accepted_steps_cost_no_pass_of_the_target_and_the_draft_reads_each_token_once(
    fed: Fed, chunk: int
):
    (sequence,) = run(request(3, ACCEPT, limits(chunk=chunk)))
    assert fed.target == sequence.counters.target_passes == 0
    # Each stretch of drafting reads one token more than it adds, see OVERLAP.
    written = sum(s.draft_tokens for s in sequence.steps)
    assert fed.draft == len(PROMPTS[3]) - OVERLAP + written + fed.drafts
    assert sequence.counters.draft_passes == written
    assert written - COUNT == beyond(sequence)


def beyond(sequence: TokenSequence) -> int:
    """How many tokens of the last step were written behind the end of the answer."""
    return len(sequence.steps[-1].candidates[0].ids) - sequence.steps[-1].tokens


def test_no_prefix_is_ever_read_again(fed: Fed):
    kinds = set()
    for place in PLACES:
        fed.target = fed.draft = fed.drafts = 0
        (sequence,) = run(request(place, SOMETIMES))
        counters, steps = sequence.counters, sequence.steps
        accepted = sum(s.tokens for s in steps if s.decision == "accepted")
        prompt = len(PROMPTS[place])
        # The target reads accepted steps once, and what was drafted for it.
        assert fed.target <= prompt + accepted + counters.drafted_tokens + counters.target_passes
        written = sum(s.draft_tokens for s in steps) + counters.drafted_tokens
        rewritten = sequence.origins.count("target")
        assert fed.draft <= prompt + written + rewritten + fed.drafts
        kinds |= {s.decision for s in steps}
    assert kinds == {"accepted", "rewritten"}


def test_several_candidates_share_what_is_read_of_their_prefix(fed: Fed):
    (sequence,) = run(request(4, SpecGuard(candidates=4, temperature=0.9, threshold=0.0)))
    written = sum(s.draft_tokens for s in sequence.steps)
    # All four stretches of a round are one pass, so each candidate has one overlap of its own.
    stretches = 4 * fed.drafts
    assert fed.draft <= len(PROMPTS[4]) + written + stretches + len(sequence.steps)
    assert sequence.counters.draft_passes == written
    assert fed.target == 0


def test_the_target_reads_a_confirmed_step_in_one_pass_and_never_again(fed: Fed):
    policy = SpecGuard(threshold=1.0, lower=0.0, target_threshold=0.0)
    (sequence,) = run(request(4, policy))
    steps = sequence.steps
    assert sequence.answer == tiny.greedy(DRAFT, PROMPTS[4], COUNT)
    assert {s.reason for s in steps} == {"step confirmed by the target"}
    assert sequence.counters.target_passes == len(steps) > 3
    assert fed.target == len(PROMPTS[4]) - 1 + COUNT + beyond(sequence) + len(steps)
    assert sum(s.target_seconds for s in steps) == pytest.approx(sequence.counters.target_seconds)


def test_a_rewrite_begins_with_the_candidate_as_its_first_block(fed: Fed):
    # One model twice: the target agrees with all that it refuses.
    machine = tiny.engine(TARGET, TARGET)
    policy = SpecGuard(threshold=1.0, whole=True)
    (sequence,) = run(request(3, policy), machine=machine)
    counters, steps = sequence.counters, sequence.steps
    assert sequence.answer == tiny.greedy(TARGET, PROMPTS[3], COUNT)
    assert {s.reason for s in steps} == {"step rewritten"}
    assert counters.target_passes == len(steps) > 3
    assert counters.accepted_tokens == COUNT
    assert counters.drafted_tokens == COUNT + beyond(sequence)
    # The draft reads nothing again either: one overlap for each stretch of drafting.
    assert counters.draft_passes == COUNT + beyond(sequence)
    assert fed.draft == len(PROMPTS[3]) - OVERLAP + COUNT + beyond(sequence) + fed.drafts


@pytest.mark.parametrize("place", PLACES)
def test_only_the_targets_own_text_is_accepted_where_it_reads_all_and_trusts_nothing_else(
    place: int,
):
    policy = SpecGuard(scorer="target", target_threshold=1.0)
    (sequence,) = run(request(place, policy))
    assert sequence.answer == tiny.greedy(TARGET, PROMPTS[place], COUNT)


def test_without_speculation_the_target_writes_a_token_a_pass():
    for place in PLACES:
        policy = SpecGuard(threshold=0.25, speculate=False)
        (alone,) = run(request(place, policy))
        (helped,) = run(request(place, SOMETIMES))
        assert alone.answer == helped.answer
        rewritten = sum(s.tokens for s in alone.steps if s.decision == "rewritten")
        assert alone.counters.target_passes == rewritten
        assert alone.counters.drafted_tokens == 0
        assert set(alone.origins) <= {"draft", "target"}


def test_a_candidate_that_must_be_rejected_is_written_as_far_as_a_block_would_be():
    doubting, patient = SpecGuard(threshold=0.5), SpecGuard(threshold=0.5, whole=True)
    bounds = limits(tokens=2)
    cut = 0
    for place in PLACES:
        (early,) = run(request(place, doubting, bounds))
        (late,) = run(request(place, patient, bounds))
        assert early.answer == late.answer
        for a, b in zip(early.steps, late.steps, strict=True):
            assert (a.decision, a.tokens) == (b.decision, b.tokens)
            short, whole = a.candidates[0].ids, b.candidates[0].ids
            assert short == whole[: len(short)]
            if len(short) < len(whole):
                cut += 1
                assert a.decision == "rewritten"
                assert len(short) >= min(2, COUNT - a.position - 1)
                assert a.score is not None
                assert a.score < 0.5
        assert early.counters.draft_passes <= late.counters.draft_passes
    assert cut


def test_a_candidate_that_breaks_off_is_rejected_whatever_the_policy_says():
    # Two tokens are a block here: as much as is written of what is for the target to write.
    for place, sequence in enumerate(
        run(*(request(n, tiny.Stumps(), limits(tokens=2)) for n in PLACES))
    ):
        whole = [s for s in sequence.steps if ends_of("\n")(s.candidates[0].text)]
        broken = [s for s in sequence.steps if s not in whole]
        assert broken
        assert {(s.decision, s.reason) for s in broken} == {("rewritten", CUT_SHORT)}
        assert {(s.decision, s.reason) for s in whole} <= {("accepted", "fine")}
        assert sequence.answer == by_turns(place, sequence)


def by_turns(place: int, sequence: TokenSequence) -> list[int]:
    """The text that the models write step by step, in turns as the sequence's steps say."""
    tokens = list(PROMPTS[place])
    for record in sequence.steps:
        tokens += step("draft" if record.decision == "accepted" else "target", tokens, 32)
    return tokens[len(PROMPTS[place]) :][:COUNT]


def test_where_the_context_ends_inside_a_step_the_target_writes_it():
    for place in PLACES:
        (whole,) = run(request(place, ACCEPT))
        last = whole.steps[-2]
        size = last.position + last.tokens - 1
        # There is no room for its last token.
        bounds = Limits(size, draft_length=FixedLength(4))
        (sequence,) = run(request(place, ACCEPT, bounds))
        found = sequence.steps[: len(whole.steps) - 1]
        assert {s.decision for s in found[:-1]} == {"accepted"}
        assert (found[-1].decision, found[-1].reason) == ("rewritten", CUT_SHORT)
        own = tiny.greedy(TARGET, PROMPTS[place] + sequence.answer[: last.position], last.tokens)
        assert sequence.answer == [*whole.answer[: last.position], *own][:size]
        assert sequence.finish_reason == "length"


def test_whole_candidates_are_chosen_from_where_there_are_any():
    """The first has no room for its end, so it is not even offered."""
    seen: list[list[str]] = []

    @dataclass(frozen=True)
    class Recording(tiny.Stumps):
        candidates: int = 4

        def doubt(self, sampling: SamplingParams) -> None:
            return None

        def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
            yield from ()
            seen.append([c.text for c in step.candidates])
            return StepDecision(0, accepted=True, reason="fine")

    sampling = SamplingParams(temperature=1.5)
    for place in PLACES:
        seen.clear()
        bounds = Limits(COUNT, draft_length=FixedLength(4))
        (sequence,) = run(request(place, Recording(), bounds, sampling))
        for texts, record in zip(seen, sequence.steps, strict=True):
            ended = [bool(ends_of("\n")(t)) or len(t) == 32 for t in texts]
            assert all(ended) or not any(ended)
            assert (record.decision == "accepted") == ended[0]


def test_a_rewrite_is_not_drafted_beyond_its_step():
    sequences = run(*(request(n, REWRITE, limits(tokens=12)) for n in PLACES))
    for sequence in sequences:
        ends = {s.position + s.tokens for s in sequence.steps}
        for block in sequence.blocks:
            inside = range(block.position + 1, min(block.position + block.accepted, COUNT))
            assert ends.isdisjoint(inside)
            # After the first line break behind some text nothing more was drafted.
            spoken = [i for i, t in enumerate(block.drafted) if t not in LINE_BREAKS]
            breaks = [i for i, t in enumerate(block.drafted) if t in LINE_BREAKS]
            assert not [i for i in breaks[:-1] if spoken and i > spoken[0]]


def test_a_refused_step_is_read_once_and_rewritten(fed: Fed):
    policy = SpecGuard(threshold=1.0, lower=0.0, target_threshold=1.0)
    (sequence,) = run(request(4, policy))
    counters, steps = sequence.counters, sequence.steps
    assert sequence.answer == tiny.greedy(TARGET, PROMPTS[4], COUNT)
    assert {s.reason for s in steps} == {"step refused by the target"}
    refused = sum(s.draft_tokens for s in steps)
    passes = counters.target_passes
    assert fed.target <= len(PROMPTS[4]) + refused + counters.drafted_tokens + passes


@pytest.mark.parametrize("policy", [ACCEPT, SOMETIMES, REWRITE], ids="asr")
def test_a_single_candidate_writes_in_its_parents_place(
    policy: SpecGuard, monkeypatch: pytest.MonkeyPatch
):
    copies: list[int] = []
    monkeypatch.setattr(KVCache, "copy", lambda _, sources, targets: copies.extend(sources))
    machine = engine(rows=1)
    (sequence,) = run(request(2, policy), machine=machine)
    assert sequence.answer == expected(2, policy).answer
    assert copies == []


# Rows


@pytest.mark.parametrize("policy", [SOMETIMES, VOTING, SpecGuard(threshold=1.0, lower=0.0)])
def test_a_request_that_ends_in_the_middle_of_a_step_frees_its_rows(policy: SpecGuard):
    machine = engine(rows=9)
    neighbour = request(1, Exact(), limits(200))
    machine.submit(neighbour)
    for _ in range(3):
        machine.step()
    for rounds in range(11):
        leaving = request(4, policy, limits(chunk=2))
        machine.submit(leaving)
        for _ in range(rounds):
            machine.step()
        if rounds % 2:
            machine.cancel(leaving)
        else:
            leaving.deadline = time.monotonic()
            machine.step()
        assert leaving.done
        assert leaving.sequence.finish_reason == ("cancelled" if rounds % 2 else "timeout")
        assert not neighbour.done
        assert all(runner.rows_in_use == 1 for runner in machine.runners.values())
        steps = leaving.sequence.steps
        assert sum(s.tokens for s in steps) <= len(leaving.sequence.answer)
    machine.cancel(neighbour)
    found = neighbour.sequence.answer
    assert found == tiny.greedy(TARGET, PROMPTS[1], len(found))
    drain(machine)


@dataclass(frozen=True)
class Fails(SpecGuard):
    """Judges two steps, then does what it must not."""

    chosen: int | None = None

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        if step.index == 2:
            if self.chosen is None:
                raise ZeroDivisionError("a mistake")
            return StepDecision(self.chosen, True, "")
        return (yield from super().judge(step))


@pytest.mark.parametrize(
    ("chosen", "error", "sentence"),
    [
        (None, ZeroDivisionError, "a mistake"),
        (-1, StetError, "chose candidate -1 of 3"),
        (3, StetError, "chose candidate 3 of 3"),
    ],
)
def test_a_policy_that_fails_ends_its_own_request_alone(
    chosen: int | None, error: type, sentence: str
):
    machine = engine(rows=9)
    failing = request(0, Fails(threshold=0.0, candidates=3, temperature=0.7, chosen=chosen))
    others = [request(1, SOMETIMES), request(2, Exact())]
    for item in (failing, *others):
        machine.submit(item)
    drain(machine)
    assert failing.sequence.finish_reason == "error"
    assert isinstance(failing.error, error)
    assert sentence in str(failing.error)
    assert len(failing.sequence.steps) == 2
    assert others[0].sequence.answer == expected(1, SOMETIMES).answer
    assert others[1].sequence.answer == tiny.greedy(TARGET, PROMPTS[2], COUNT)


@dataclass(frozen=True)
class Asks(SpecGuard):
    """Asks somebody outside, who accepts every other step."""

    seconds: float = 0.0

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        async def answer() -> bool:
            await asyncio.sleep(self.seconds)
            return step.index % 2 == 0

        accepted: bool = yield Await(answer())
        return StepDecision(0, accepted, "asked")


def test_a_policy_may_wait_for_somebody_outside():
    machine = engine(rows=8)
    asking = request(0, Asks(candidates=2, temperature=0.5, seconds=0.001))
    waiting = request(1, Asks(candidates=2, temperature=0.5, seconds=1000.0))
    for item in (asking, waiting, other := request(2, SOMETIMES)):
        machine.submit(item)
    while not (asking.done and other.done):
        machine.step()
    decisions = [s.decision for s in asking.sequence.steps]
    assert decisions == [("accepted", "rewritten")[n % 2] for n in range(len(decisions))]
    assert other.sequence.answer == expected(2, SOMETIMES).answer
    machine.cancel(waiting)
    drain(machine)
    assert (waiting.sequence.finish_reason, waiting.sequence.answer) == ("cancelled", [])


@pytest.mark.parametrize("rows", [5, 7])
def test_requests_with_several_candidates_wait_for_rows(rows: int):
    policy = SpecGuard(candidates=4, temperature=0.8, threshold=0.3)
    both = SpecGuard(candidates=2, target_candidates=4, temperature=0.8, threshold=0.3)
    requests = [request(n, (policy, Exact(), both)[n % 3], limits(16)) for n in PLACES]
    assert [r.rows for r in requests[:3]] == [5, 1, 5]
    crowded = run(*requests, machine=engine(rows=rows))
    # One after the other, each has all the room it wants.
    machine = engine(rows=16, max_batch=1)
    alone = [request(n, (policy, Exact(), both)[n % 3], limits(16)) for n in PLACES]
    assert [s.answer for s in crowded] == [s.answer for s in run(*alone, machine=machine)]


def models() -> tuple[LoadedModel, LoadedModel]:
    return tiny.loaded(TARGET), tiny.loaded(DRAFT, "draft")


def test_a_request_that_can_never_have_its_rows_is_refused():
    pair = Pair(*models(), max_length=64, max_batch=3, compile=False)
    with pytest.raises(OptionError, match="needs 6 rows .* has 4; load it with max_rows=6"):
        pair.generate([[1, 2]], SpecGuard(candidates=5, temperature=1.0))
    with pytest.raises(OptionError, match="needs 9 rows"):
        pair.generate([[1, 2]], SpecGuard(target_candidates=8, temperature=1.0))


# Records


SETTINGS = trace.Settings(
    {"name": "specguard", **parameters(SpecGuard(delimiter=lambda t: None))},
    False,
    {},
    {},
    {},
    {},
    "",
)


@pytest.mark.parametrize(
    "policy",
    [
        ACCEPT,
        REWRITE,
        SOMETIMES,
        VOTING,
        SpecGuard(threshold=0.6, lower=0.1, target_threshold=0.05),
        SpecGuard(threshold=0.3, target_candidates=2, temperature=0.7, selector="medoid"),
    ],
    ids=["accept", "rewrite", "sometimes", "voting", "band", "medoid"],
)
def test_records_say_what_happened(policy: SpecGuard, tmp_path: Path):
    jobs = [AnswerJob(request(n, policy, limits(probabilities=True)), "", SETTINGS) for n in PLACES]
    sequences = run(*(job.request for job in jobs))
    for sequence in sequences:
        counters, steps, answer = sequence.counters, sequence.steps, sequence.answer
        assert len(sequence.emitted) == len(answer)

        position = steps_accepted = accepted = 0
        for number, record in enumerate(steps):
            span = slice(position, position + record.tokens)
            assert record.position == position
            assert record.tokens > 0
            assert record.draft_tokens == sum(len(c.ids) for c in record.candidates)
            assert len(record.candidates) == policy.candidates
            own = text(answer[span])
            last = number == len(steps) - 1
            assert last or own.endswith("\n") or record.tokens == policy.step_tokens
            if record.decision == "accepted":
                steps_accepted += 1
                chosen = record.candidates[record.chosen]
                # Of the last one the end of the answer may have cut off a part.
                assert chosen.ids[: record.tokens if last else None] == answer[span]
                assert chosen.text[: record.tokens if last else None] == own
                assert (record.target_candidates, record.target_tokens) == ([], 0)
                assert set(sequence.origins[span]) == {"draft"}
                assert set(sequence.reasons[span]) == {record.reason}
                assert all(e.p_draft is not None for e in sequence.emitted[span])
            else:
                ends = [t[: record.tokens if last else None] for t in record.target_candidates]
                assert own in ends
                assert len(record.target_candidates) == policy.target_candidates
                assert set(sequence.reasons[span]) <= {"accepted", "recovered", "bonus"}
                assert all(e.p_target is not None for e in sequence.emitted[span])
                accepted += sequence.origins[span].count("draft")
            position += record.tokens
        assert position == len(answer) == counters.emitted_tokens
        assert (counters.steps, counters.accepted_steps) == (len(steps), steps_accepted)
        assert counters.accepted_tokens == sum(counters.accepted_per_position) == accepted
        for block in sequence.blocks:
            stood = answer[block.position : block.position + block.accepted]
            assert stood == block.drafted[: block.accepted][: len(answer) - block.position]
            if block.next_token is not None:
                assert answer[block.position + block.accepted] == block.next_token
        for name in ("draft_seconds", "target_seconds"):
            spent = sum(getattr(s, name) for s in steps)
            assert spent == pytest.approx(getattr(counters, name))

    traces = [job.result().trace for job in jobs]
    trace.write(traces, tmp_path / "trace.jsonl")
    for line in (tmp_path / "trace.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), trace.json_schema())
    read = trace.read(tmp_path / "trace.jsonl")
    assert [t.steps for t in read] == [s.steps for s in sequences]


def test_probabilities_are_the_models_own():
    (sequence,) = run(request(2, SOMETIMES, limits(probabilities=True)))
    for i, token in enumerate(sequence.answer):
        prefix = PROMPTS[2] + sequence.answer[:i]
        for role, found in (
            ("draft", sequence.emitted[i].p_draft),
            ("target", sequence.emitted[i].p_target),
        ):
            if found is not None:
                own = logits(role, tuple(prefix)).softmax(-1)[token].item()
                assert found == pytest.approx(own, rel=1e-3)


def test_signals_of_a_step_are_of_its_own_tokens_alone():
    # Penalty and bias change what is written; the signals are raw all the same.
    sampling = SamplingParams(repetition_penalty=1.3, logit_bias={9: 2.0})
    machine = engine()
    machine.drafter._looks = False  # more is written than the step has
    (sequence,) = run(request(4, ACCEPT, limits(chunk=5), sampling), machine=machine)
    for record in sequence.steps:
        prefix = PROMPTS[4] + sequence.answer[: record.position]
        (candidate,) = record.candidates
        assert record.score == pytest.approx(least(prefix, candidate.ids), rel=1e-3)
        assert record.normalised["min_logprob"] == record.score


# Sampling


def test_sampled_candidates_depend_on_the_seed_and_on_nothing_else():
    def answers(*places: int, seed: int = 5, crowd: bool = False) -> list[list[int]]:
        sampling = SamplingParams(seed=seed)
        policy = SpecGuard(candidates=3, temperature=0.8, threshold=0.0)
        chosen = [request(n, policy, sampling=sampling) for n in places]
        others = [request(n, Exact(), limits(probabilities=True)) for n in PLACES] if crowd else []
        run(*others, *chosen, machine=engine(rows=24))
        return [r.sequence.answer for r in chosen]

    alone = [answers(n)[0] for n in (0, 3, 4)]
    assert answers(0, 3, 4) == alone
    assert answers(4, 0, 3, crowd=True) == [alone[2], alone[0], alone[1]]
    assert answers(0, 3, 4, seed=6) != alone


def test_what_batch_mates_ask_for_changes_no_choice():
    # Without log-probabilities of its own the vote's ties go to the first candidate.
    policy = SpecGuard(
        candidates=3, temperature=1.2, signals=("agreement",), threshold=0.0, selector="first"
    )
    (alone,) = run(request(2, policy))
    mate = SpecGuard(candidates=3, temperature=1.2, threshold=0.0, selector="medoid")
    crowded = run(request(2, policy), request(3, mate), request(4, ACCEPT))[0]
    assert crowded.answer == alone.answer
    assert (
        [s.chosen for s in crowded.steps]
        == [s.chosen for s in alone.steps]
        == [0] * len(alone.steps)
    )


def test_candidates_differ_from_each_other():
    policy = SpecGuard(candidates=6, temperature=1.0, threshold=0.0)
    sequences = run(*(request(n, policy) for n in range(3)), machine=engine(rows=24))
    steps = [s for sequence in sequences for s in sequence.steps]
    distinct = [len({c.text for c in record.candidates}) for record in steps]
    assert sum(distinct) / len(distinct) > 4


def test_equal_seeds_give_other_candidates_at_another_step():
    policy = SpecGuard(candidates=2, temperature=2.0, threshold=1.0, step_tokens=6)
    (sequence,) = run(request(1, policy))
    firsts = [c.text for record in sequence.steps for c in record.candidates]
    assert len(set(firsts)) > len(firsts) / 2
