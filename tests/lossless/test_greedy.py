"""At temperature 0 every lossless policy gives the target's own text, however it is drafted."""

from __future__ import annotations

from functools import cache

import pytest

import tiny
from stet.core.draft_length import AdaptiveLength, DraftLength, FixedLength
from stet.core.limits import Limits
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine import drafting
from stet.policies import BlockVerification, Exact, TokenPolicy
from stet.programs import autoregressive

VOCAB, COUNT = 50, 24
TARGET = tiny.llama(vocab=VOCAB, seed=5)
DRAFTS = {
    "near": tiny.near(TARGET, 0.03),
    "far": tiny.llama(vocab=VOCAB, layers=1, seed=6),
    "lookup": None,
}
# Ragged on purpose; the ones that repeat themselves give prompt lookup something to find.
PROMPTS = [[(7 * i * i + n) % VOCAB for i in range(n)] * (1 + n % 2) for n in range(1, 25)]
RULES: list[DraftLength] = [
    FixedLength(1),
    FixedLength(2),
    FixedLength(5),
    FixedLength(9),
    FixedLength(6, min_confidence=0.5),
    AdaptiveLength(draft_cost=0.1),
    AdaptiveLength(draft_cost=0.2, by_confidence=True),
]


@cache
def plain(place: int) -> list[int]:
    """The target's own answer to a prompt, without any cache."""
    return tiny.greedy(TARGET, PROMPTS[place], COUNT)


def limits(rule: DraftLength, count: int = COUNT) -> Limits:
    return Limits(max_new_tokens=count, draft_length=rule)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("batch", [1, 16])
def test_text_is_the_targets_own(draft: str, rule: DraftLength, batch: int):
    # More requests than rows: they join as others leave. Prompts come in chunks of a few tokens.
    places = range(len(PROMPTS)) if batch > 1 else range(5, 8)
    machine = tiny.engine(TARGET, DRAFTS[draft], rows=batch, chunk=7)
    policies: list[TokenPolicy] = [Exact(), BlockVerification()]
    requests = [tiny.request(PROMPTS[n], policies[n % 2], limits(rule)) for n in places]
    assert tiny.run(machine, requests) == [plain(n) for n in places]
    assert machine.runners["target"].rows_in_use == 0


def test_requests_may_join_and_leave_at_any_round():
    machine = tiny.engine(TARGET, DRAFTS["near"], rows=16, chunk=5)
    requests = [
        tiny.request(PROMPTS[n], Exact(), limits(FixedLength(1 + n % 6), count=3 + n % 20))
        for n in range(24)
    ]
    waiting = list(requests)
    while waiting or machine.busy:
        if waiting:
            machine.submit(waiting.pop(0))
        machine.step()
    for n, request in enumerate(requests):
        assert request.sequence.answer == plain(n)[: 3 + n % 20]


def test_plain_decoding_through_the_engine_is_the_targets_own():
    machine = tiny.engine(TARGET, None, rows=8)
    requests = [
        tiny.request(prompt, Exact(), limits(FixedLength(1)), program=autoregressive)
        for prompt in PROMPTS
    ]
    assert tiny.run(machine, requests) == [plain(n) for n in range(len(PROMPTS))]
    assert all(r.sequence.counters.target_passes == COUNT for r in requests)


@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_that_drafts_for_itself_is_kept_whole(policy: TokenPolicy, temperature: float):
    # 1 + 6 tokens a round: 28 tokens in four rounds, every drafted token accepted.
    machine = tiny.engine(TARGET, TARGET, rows=8)
    requests = [
        tiny.request(
            prompt,
            policy,
            limits(FixedLength(6), count=28),
            SamplingParams(temperature=temperature, top_p=0.95, seed=seed),
        )
        for seed, prompt in enumerate(PROMPTS)
    ]
    tiny.run(machine, requests)
    for request in requests:
        counters = request.sequence.counters
        assert counters.accepted_tokens == counters.drafted_tokens == 24
        assert counters.target_passes == 4
        assert counters.accepted_per_position == [4] * 6
        assert request.sequence.origins.count("target") == 4


def test_a_draft_with_fewer_tokens_counts_those_that_it_has():
    # Its last token stands for those that it lacks, and is not penalised in their place.
    params = SamplingParams(frequency_penalty=1.0, logit_bias={VOCAB - 1: 3.0, VOCAB - 2: 3.0})
    alone = [
        tiny.request(prompt, Exact(), limits(FixedLength(5)), params, program=autoregressive)
        for prompt in PROMPTS
    ]
    reference = tiny.run(tiny.engine(TARGET, None, rows=8), alone)
    assert any(max(answer) >= VOCAB - 2 for answer in reference)
    machine = tiny.engine(TARGET, tiny.llama(vocab=VOCAB - 2, seed=5), rows=8)
    machine.runners["draft"].stand_in = VOCAB - 3
    requests = [tiny.request(prompt, Exact(), limits(FixedLength(5)), params) for prompt in PROMPTS]
    assert tiny.run(machine, requests) == reference
    answer = TokenSequence([1], params)
    answer.tokens += [2, VOCAB - 1, VOCAB - 3, VOCAB - 2]
    assert drafting._fit_to_draft([answer], VOCAB - 3)[2] == [[2, VOCAB - 3]]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(repetition_penalty=1.7, logit_bias={3: 2.0, 4: -5.0}),
        SamplingParams(frequency_penalty=1.5),
        SamplingParams(presence_penalty=2.0),
        SamplingParams(repetition_penalty=1.2, frequency_penalty=-0.5, presence_penalty=1.5),
    ],
    ids=["repetition and bias", "frequency", "presence", "all"],
)
def test_greedy_edits_of_the_logits_are_verified_too(params: SamplingParams):
    # A penalty makes the choice at each position depend on the block's own prefix.
    rule = limits(FixedLength(5))
    alone = [
        tiny.request(prompt, Exact(), rule, params, program=autoregressive) for prompt in PROMPTS
    ]
    reference = tiny.run(tiny.engine(TARGET, None, rows=8), alone)
    machine = tiny.engine(TARGET, DRAFTS["near"], rows=8)
    requests = [tiny.request(prompt, Exact(), rule, params) for prompt in PROMPTS]
    assert tiny.run(machine, requests) == reference
    assert reference != [plain(n) for n in range(len(PROMPTS))]
