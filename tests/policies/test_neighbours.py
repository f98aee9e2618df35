"""Neighbouring rules, each against its definition, position by position, in plain Python."""

import math

import pytest
import torch

from stet.core.draft_length import AdaptiveLength, FixedLength
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.policies import Confident, CoSD, FLy, Fuzzy, Random, TopK, Typical, resolve
from tiny import engine, greedy, llama, near, request, run

COUNT = 24
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]


@pytest.fixture(scope="module")
def models():
    target = llama()
    return target, near(target, 0.25)


def decode(models, policy, block, prompts=PROMPTS, count=COUNT):
    machine = engine(*models, rows=len(prompts) + 1)
    limits = Limits(max_new_tokens=count, draft_length=FixedLength(block))
    requests = [request(p, policy, limits) for p in prompts]
    run(machine, requests)
    return [item.sequence for item in requests]


@torch.inference_mode()
def both(models, tokens):
    return [m(torch.tensor([tokens])).logits[0, -1].log_softmax(-1) for m in models]


def by_hand(models, prompt, accepted, count=COUNT):
    """Greedy decoding where `accepted` sees both log-prob vectors and decides on a token."""
    tokens = list(prompt)
    for _ in range(count):
        p, q = both(models, tokens)
        d, t = int(q.argmax()), int(p.argmax())
        tokens.append(d if d == t or accepted(p, q, d, t) else t)
    return tokens[len(prompt) :]


def entropy(p):
    return -sum(x * math.log(x) for x in p.exp().tolist() if x > 0)


def kl(p, q):
    return sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def js(p, q):
    middle = ((p.exp() + q.exp()) / 2).log()
    return (kl(p, middle) + kl(q, middle)) / 2


RULES = {
    "typical": (
        Typical(0.2, 0.5),
        lambda p, q, d, t: p[d].exp() > min(0.2, 0.5 * math.exp(-entropy(p))),
    ),
    "top-k": (
        TopK(4, 4.0),
        lambda p, q, d, t: int((p > p[d]).sum()) < 4 and p[t] - p[d] <= 4.0,
    ),
    "top-k, any distance": (
        TopK(3, 50.0),
        lambda p, q, d, t: int((p > p[d]).sum()) < 3,
    ),
    "fuzzy js": (Fuzzy(0.4), lambda p, q, d, t: js(p, q) <= 0.4),
    "fuzzy kl": (Fuzzy(3.0, "kl"), lambda p, q, d, t: kl(p, q) <= 3.0),
    "fuzzy tv": (
        Fuzzy(0.74, "tv"),
        lambda p, q, d, t: float((p.exp() - q.exp()).abs().sum()) / 2 <= 0.74,
    ),
    "cosd": (
        CoSD(0.8, 0.6),
        lambda p, q, d, t: q[d].exp() > 0.8 * p[t].exp() and p[t].exp() < 0.6,
    ),
}


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_decides_as_its_definition_says_whatever_the_block(models, rule, block):
    policy, accepted = RULES[rule]
    seen = 0
    for prompt, sequence in zip(PROMPTS, decode(models, policy, block), strict=True):
        assert sequence.answer == by_hand(models, prompt, accepted)
        seen += sum(len(b.accepted_mismatches) for b in sequence.blocks)
    assert seen, "no mismatch was accepted, so nothing was tested"


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_neither_model_alone(models, rule):
    policy, _ = RULES[rule]
    found = [tuple(s.answer) for s in decode(models, policy, 4)]
    for model in models:
        assert found != [tuple(greedy(model, p, COUNT)) for p in PROMPTS]


@torch.inference_mode()
def fly_by_hand(models, prompt, policy, block):
    """Block by block: K drafted tokens, the target's view of each, and FLy's two conditions."""
    target, draft = models
    tokens, end = list(prompt), len(prompt) + COUNT
    while len(tokens) < end:
        # Room is left for the target's token behind a whole block.
        length = min(block, end - len(tokens) - 1)
        drafted = greedy(draft, tokens, length) if length else []
        logits = target(torch.tensor([tokens + drafted])).logits[0, len(tokens) - 1 :]
        own = logits.argmax(-1).tolist()
        accepted = 0
        for i, token in enumerate(drafted):
            best = sorted(logits[i].softmax(-1).tolist())[-policy.top :]
            doubt = -sum(b * math.log(b) for b in best)
            following = range(i + 1, i + policy.window)
            relaxed = (
                doubt >= policy.entropy
                and i < length - policy.window
                and all(drafted[j] == own[j] for j in following)
            )
            if token != own[i] and not relaxed:
                break
            accepted += 1
        tokens += [*drafted[:accepted], own[accepted]]
    return tokens[len(prompt) : end]


@pytest.mark.parametrize(
    ("policy", "block"),
    [(FLy(0.3, 2), 8), (FLy(0.3, 1), 8), (FLy(0.6, 2), 12), (FLy(0.3, 6), 5), (FLy(0.0, 2, 5), 8)],
)
def test_fly_relaxes_where_the_target_doubts_and_then_agrees(models, policy, block):
    for prompt, sequence in zip(PROMPTS, decode(models, policy, block), strict=True):
        assert sequence.answer == fly_by_hand(models, prompt, policy, block)
    if policy.window < block - 2:
        assert any(b.accepted_mismatches for s in decode(models, policy, block) for b in s.blocks)


def test_fly_on_short_blocks_is_the_target(models):
    for prompt, sequence in zip(PROMPTS, decode(models, FLy(0.0, 6), 5), strict=True):
        assert sequence.answer == greedy(models[0], prompt, COUNT)


@pytest.mark.parametrize(("rate", "model"), [(0.0, 0), (1.0, 1)])
def test_a_random_arbiter_at_its_ends_is_one_model_alone(models, rate, model):
    for prompt, sequence in zip(PROMPTS, decode(models, Random(rate), 4), strict=True):
        assert sequence.answer == greedy(models[model], prompt, COUNT)


def test_a_random_arbiter_accepts_mismatches_at_its_rate_and_the_same_again(models):
    prompts = [[i, j] for i in range(1, 21) for j in range(1, 6)]
    first, again = (decode(models, Random(0.3), 4, prompts) for _ in range(2))
    assert [s.answer for s in first] == [s.answer for s in again]
    accepted_mismatches = sum(len(b.accepted_mismatches) for s in first for b in s.blocks)
    declined = sum(
        b.accepted < len(b.drafted) and b.position + b.accepted < COUNT
        for s in first
        for b in s.blocks
    )
    count = accepted_mismatches + declined
    assert count > 200
    spread = math.sqrt(0.3 * 0.7 / count)
    assert abs(accepted_mismatches / count - 0.3) < 4 * spread


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("typical", {"epsilon": 2}, "epsilon is 2; it must be between 0 and 1"),
        ("typical", {"delta": "much"}, "delta is 'much'"),
        ("top-k", {"k": 0}, "k is 0; it must be a whole number from 1 on"),
        ("top-k", {"delta": -1}, "delta is -1; it must not be negative"),
        ("fly", {"top": 1}, "top is 1; it must be a whole number from 2 on"),
        ("fly", {"window": 1.5}, "window is 1.5"),
        ("fly", {"entropy": -0.1}, "entropy is -0.1; it must not be negative"),
        ("fuzzy", {"divergence": "l2"}, "choose from kl, js, tv"),
        ("fuzzy", {"threshold": -0.1}, "threshold is -0.1"),
        ("cosd", {"alpha": -1}, "alpha is -1"),
        ("cosd", {"beta": 1.5}, "beta is 1.5"),
        ("random", {"rate": 1.5}, "rate is 1.5"),
    ],
)
def test_parameters_out_of_range_are_refused(name, parameters, sentence):
    with pytest.raises(OptionError, match=sentence):
        resolve(name, parameters)


def test_none_of_them_claims_to_be_lossless():
    for rule in (Typical, TopK, FLy, Fuzzy, CoSD, Random, Confident):
        assert rule.lossless is False


def test_a_lenient_rule_gets_longer_blocks(models):
    """A draft in doubt need not end its block where doubtful tokens are accepted anyway."""
    rule = AdaptiveLength(draft_cost=0.1, by_confidence=True)
    prompts = [[i, i + 1] for i in range(1, 9)]

    def mean_block(policy):
        machine = engine(*models, rows=9)
        limits = Limits(max_new_tokens=60, draft_length=rule)
        requests = [request(p, policy, limits) for p in prompts]
        run(machine, requests)
        blocks = [b for item in requests for b in item.sequence.blocks]
        return sum(len(b.drafted) for b in blocks) / len(blocks)

    assert mean_block(Random(1.0)) > 1.5 * mean_block(Random(0.0))
