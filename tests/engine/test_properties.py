"""Property-based: rewinding, forking, and batch-mates that must not matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from engine import scripts
from stet.core.block import EMPTY
from stet.core.draft_length import AdaptiveLength, FixedLength
from stet.core.limits import Limits
from stet.core.operations import Draft, Join, Score
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.policies import BlockVerification, Exact
from stet.programs import speculative

few = settings(max_examples=20, deadline=None, derandomize=True)

actions = st.one_of(
    st.tuples(st.just("speculate"), st.integers(1, 6), st.integers(0, 6)),
    st.tuples(st.sampled_from(["target", "draft", "look", "truncate", "fork"]), st.integers(1, 5)),
)
written = st.lists(actions, min_size=1, max_size=7)


@pytest.mark.slow
@few
@given(st.lists(written, min_size=1, max_size=4))
def test_however_the_caches_are_moved_the_text_is_the_models_own(many: list):
    assert scripts.answers(many) == [scripts.reference(script) for script in many]


@pytest.mark.parametrize("count", [2, 3])
def test_looking_ahead_leaves_no_trace_in_what_is_adopted(count: int):
    script = [("look", 4), ("fork", count), ("target", 2), ("look", 3), ("fork", count)] * 2
    script += [("speculate", 3, 1), ("target", 1)]
    assert scripts.answer(script) == scripts.reference(script)


TARGET = tiny.llama(vocab=30, seed=31)
DRAFT = tiny.near(TARGET, 0.05)

rules = st.one_of(
    st.builds(FixedLength, st.integers(1, 6), st.sampled_from([0.0, 0.3])),
    st.builds(AdaptiveLength, draft_cost=st.sampled_from([0.05, 0.4])),
)
samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 2.0]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
members = st.tuples(
    st.lists(st.integers(0, 29), min_size=1, max_size=20),
    st.sampled_from([Exact(), BlockVerification()]),
    st.integers(1, 14),
    rules,
    samplings,
)


def member(description: tuple):
    prompt, policy, count, rule, sampling = description
    return tiny.request(prompt, policy, Limits(count, draft_length=rule), sampling)


@pytest.mark.slow
@few
@given(members, st.lists(members, min_size=1, max_size=8), st.integers(2, 6))
def test_batch_mates_do_not_matter(subject: tuple, crowd: list[tuple], rows: int):
    alone = tiny.run(tiny.engine(TARGET, DRAFT, rows=1), [member(subject)])[0]
    together = [member(m) for m in crowd]
    together.insert(len(crowd) // 2, member(subject))
    found = tiny.run(tiny.engine(TARGET, DRAFT, rows=rows, chunk=4), together)
    assert found[len(crowd) // 2] == alone


STEP = 4


def candidate(sequence: TokenSequence, policy: Exact, by_draft: bool):
    """A step: written by the draft alone, or by the target with speculation; then cut to length."""
    if by_draft:
        sequence.commit((yield Draft(sequence, min(STEP, sequence.remaining))))
    else:
        yield from speculative(sequence, policy, _long_enough)
        sequence.truncate(STEP)
    return sequence


def _long_enough(sequence: TokenSequence) -> bool:
    return len(sequence.answer) >= STEP


def stepwise(records: list, candidates: int):
    """A preview of step-level verification: candidates side by side, one is adopted."""

    def program(sequence: TokenSequence, policy: Exact):
        while not sequence.finished:
            by_draft = len(records) % 2 == 0
            with sequence.fork(candidates) as children:
                done = yield Join([candidate(c, policy, by_draft) for c in children])
                assert done == children
                for child in children:
                    records.append((child.tokens[: child.prompt_length], child, by_draft))
                chosen = max(children, key=lambda c: (c.answer, c.finished))
                sequence.adopt(chosen)
            assert (yield Score(sequence, EMPTY, None)).logprobs == []

    return program


@pytest.mark.slow
@settings(few, max_examples=8)
@given(st.integers(1, 4), st.integers(0, 1000), st.sampled_from([0.0, 1.0]))
def test_candidates_write_what_they_would_write_alone(count: int, seed: int, temperature: float):
    records: list = []
    machine = tiny.engine(TARGET, DRAFT, rows=12, chunk=3)
    limits = Limits(15, draft_length=FixedLength(3))
    sampling = SamplingParams(temperature=temperature, top_p=0.9, seed=seed)
    prompt = [1, 2, 3, 4, 5, 6, 7]
    request = tiny.request(prompt, Exact(), limits, sampling, stepwise(records, count))
    others = [tiny.request([n, n], Exact(), limits, sampling) for n in range(3)]
    tiny.run(machine, [request, *others])
    assert len(request.sequence.answer) == 15
    assert request.sequence.counters.emitted_tokens == 15
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())

    alone = [
        tiny.request(
            tokens,
            Exact(),
            child.limits,
            child.sampling,
            lambda sequence, policy, by=by: candidate(sequence, policy, by),
        )
        for tokens, child, by in records
    ]
    found = tiny.run(tiny.engine(TARGET, DRAFT, rows=1), alone)
    assert found == [child.answer for _, child, _ in records]
    if temperature and count > 1:
        assert len({tuple(child.answer) for _, child, _ in records[:count]}) > 1
