"""The exact law of whole answers through the whole engine: every outcome listed and counted.

A fault that one-step tests miss, in a cache after a rejection, in the random numbers of consecutive
rounds, in the drafts' stopping, shows up as a wrong frequency of whole answers.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

import tiny
from lossless import law
from lossless.law import HOT, SHARP, WARM, Case, both
from stet.core.draft_length import AdaptiveLength, FixedLength
from stet.core.sampling import SamplingParams

LENGTHS = [
    *both(length=FixedLength(1)),
    *both(length=FixedLength(2)),
    *both(length=FixedLength(3)),
    *both(length=FixedLength(5)),
]
DRAFTS = [
    *both(draft=0.005, length=FixedLength(5)),
    *both(draft=0.6, sampling=HOT),
    *both(draft="other", length=FixedLength(2)),
    *both(draft="opposed", sampling=SamplingParams(temperature=0.5), length=FixedLength(2)),
    *both(draft=None, length=FixedLength(5), sampling=HOT),
]
TRANSFORMS = [
    *both(sampling=SHARP),
    *both(sampling=SamplingParams(temperature=1.3, top_p=0.8), draft=0.6),
    *both(sampling=SamplingParams(temperature=1.0, min_p=0.25), draft="other"),
    *both(sampling=SamplingParams(temperature=1.0, repetition_penalty=2.5), draft="other"),
    *both(sampling=SamplingParams(temperature=1.0, frequency_penalty=1.2), draft="other"),
    *both(sampling=SamplingParams(temperature=1.0, presence_penalty=-1.5)),
    *both(sampling=SamplingParams(temperature=1.0, logit_bias={1: 1.5, 2: -2.0})),
    *both(
        sampling=SamplingParams(
            temperature=1.4,
            top_k=3,
            top_p=0.9,
            min_p=0.05,
            repetition_penalty=1.3,
            frequency_penalty=-0.7,
            presence_penalty=1.5,
            logit_bias={0: -1.0},
        ),
        draft=0.6,
        length=FixedLength(5),
    ),
    # Each model's distribution is cut elsewhere: supports that differ.
    *both(sampling=SamplingParams(temperature=0.8, top_k=2), draft="other", length=FixedLength(2)),
]
DRAFTING = [
    *both(length=FixedLength(5, min_confidence=0.3), sampling=HOT),
    *both(length=AdaptiveLength(draft_cost=0.1, longest=4)),
    *both(length=AdaptiveLength(draft_cost=0.3, longest=5, by_confidence=True), sampling=HOT),
    *both(chunk=1, draft="other"),
    *both(chunk=2),
    *both(stops=frozenset({0, 3}), length=FixedLength(5), sampling=HOT),
]
ROUNDS = [
    # Many rounds of few tokens: correlations between rounds would add up.
    *both(vocab=2, count=8, length=FixedLength(3), draft=0.6),
    *both(vocab=3, count=5, length=FixedLength(2), draft="other"),
]
CASES = LENGTHS + DRAFTS + TRANSFORMS + DRAFTING + ROUNDS
ALPHA = law.FAMILY_ALPHA / (2 * len(CASES))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=law.name)
def test_answers_follow_the_targets_law(case: Case):
    found = law.sample(case)
    assert found.p_value > ALPHA
    for counts, expected in found.tables:
        bound = law.total_variation_bound(expected, sum(counts.values()), ALPHA)
        assert law.total_variation(counts, expected) < bound


@pytest.mark.slow
def test_the_cases_reach_from_hardly_any_acceptance_to_nearly_all():
    def acceptance(**settings) -> float:
        return law.sample(Case(**settings, samples=256)).acceptance

    sampling = SamplingParams(temperature=0.5)
    low = acceptance(draft="opposed", sampling=sampling, length=FixedLength(2))
    middle = acceptance()
    high = acceptance(draft=0.005, length=FixedLength(5))
    assert 0 < low < 0.1
    assert 0.2 < middle < 0.8
    assert high > 0.94
    assert acceptance(draft=0.0, sampling=HOT) == 1


@pytest.mark.slow
def test_requests_of_all_kinds_in_one_batch_each_follow_their_own_law():
    cases = [
        case
        for case in LENGTHS + TRANSFORMS + DRAFTING
        if case.draft == 0.3 and case.chunk == Case().chunk
    ]
    cases.append(Case(sampling=SamplingParams()))
    groups = [
        law.requests(Case(**{**_fields(case), "samples": 192}), first_seed=10_000 * place)
        for place, case in enumerate(cases)
    ]
    crowd = [request for group in groups for request in group]
    random.Random(0).shuffle(crowd)
    target, draft = law.models(4, 0.3)
    tiny.run(tiny.engine(target, draft, rows=64, max_length=32, chunk=4), crowd)
    for case, group in zip(cases, groups, strict=True):
        assert law.sampled(case, group).p_value > law.FAMILY_ALPHA / len(cases), law.name(case)


def test_answers_to_different_seeds_are_independent():
    # Pairs of answers of neighbouring seeds: their joint law is the product.
    case = Case(count=2, sampling=WARM, samples=4096)
    target, draft = law.models(case.vocab, case.draft)
    done = law.requests(case)
    tiny.run(tiny.engine(target, draft, rows=64, max_length=32), done)
    first = [tuple(r.sequence.answer) for r in done[0::2]]
    second = [tuple(r.sequence.answer) for r in done[1::2]]
    laws = [
        law.sequence_law(target, prompt, 2, case.sampling, frozenset()) for prompt in law.PROMPTS
    ]
    joint = {(a, b): p * q for a, p in laws[0].items() for b, q in laws[1].items()}
    assert law.p_value((Counter(zip(first, second, strict=True)), joint)) > law.FAMILY_ALPHA


def _fields(case: Case) -> dict:
    return {field: getattr(case, field) for field in case.__dataclass_fields__}
