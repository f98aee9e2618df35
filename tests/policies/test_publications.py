"""Every neighbouring rule on numbers that were worked out by hand from its publication.

No formula is repeated here: beside every decision is arithmetic on literal numbers. V is
three or four tokens; 0 is the target's first choice and 1 what the draft wrote in its place.
"""

from __future__ import annotations

import math

import pytest
import torch

from stet.arbiter import Arbiter, Network
from stet.core.sampling import Sampler, SamplingParams
from stet.policies import (
    AutoJudge,
    Blocks,
    BlockVerification,
    Cascade,
    Confident,
    CoSD,
    Ensemble,
    Exact,
    FLy,
    Fuzzy,
    RewardGuided,
    SpecReason,
    SpeculativeCascade,
    TokenPolicy,
    TopK,
    Typical,
)

Rows = list[list[float]]


def blocks(p: Rows, q: Rows, drafted: list[int]) -> Blocks:
    """A greedy block: p of K + 1 positions, q of K."""
    sampler = Sampler([SamplingParams()], [[]], len(p[0]), torch.device("cpu"))
    return Blocks(
        drafted=torch.tensor([drafted]),
        lengths=torch.tensor([len(drafted)]),
        target_logits=torch.tensor([p]).log(),
        sampler=sampler,
        uniforms=lambda slot, count: torch.full((1, count), 0.5),
        draft_logits=torch.tensor([q]).log(),
    )


def accepted(policy: TokenPolicy, p: list[float], q: list[float]) -> bool:
    """Whether token 1 is accepted where the target's first choice is token 0."""
    (accepted,) = policy.verify(blocks([p, p], [q], [1])).accepted.tolist()
    return bool(accepted)


CERTAIN = [0.01, 0.97, 0.01, 0.01]
"""A draft that is sure of token 1."""


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # H = 0.5 * 0.6931 + 2 * 0.25 * 1.3863 = 1.0397, exp(-H) = 0.3536, 0.3 of it 0.1061:
        # the bar is epsilon, 0.09.
        ([0.5, 0.25, 0.25, 0.0], True),
        ([0.5, 0.089, 0.411, 0.0], False),
        ([0.5, 0.091, 0.409, 0.0], True),
        # H = 1.3848, exp(-H) = 0.2504, 0.3 of it 0.0751: now this is the bar.
        ([0.27, 0.25, 0.24, 0.24], True),
        # H = 0.31 * 1.1712 * 3 + 0.07 * 2.6593 = 1.2754, exp(-H) = 0.2793, 0.3 of it 0.0838.
        ([0.31, 0.07, 0.31, 0.31], False),
        # H = (0.3060 * 3) * 1.1842 + 0.082 * 2.5010 = 1.2922, exp(-H) = 0.2747, of it 0.0824.
        ([0.306, 0.0825, 0.3058, 0.3057], True),
    ],
)
def test_typical_asks_for_the_lesser_of_epsilon_and_delta_times_exp_of_minus_entropy(p, expected):
    """Cai et al., Medusa, section 2.3.1: p(d) > min(epsilon, delta exp(-H(p)))."""
    assert (Typical().epsilon, Typical().delta) == (0.09, 0.3)
    assert accepted(Typical(), p, CERTAIN) is expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # 0.9 * 0.10536 + 0.05 * 2.99573 + 0.02 * 3.91202 = 0.09482 + 0.14979 + 0.07824 = 0.32285;
        # brought to sum 1 and taken as a share of log 3 it would be 0.275.
        ([0.9, 0.05, 0.02, 0.015, 0.015], True),
        # 0.95 * 0.05129 + 0.03 * 3.50656 + 0.01 * 4.60517 = 0.04873 + 0.10520 + 0.04605 = 0.19998
        ([0.95, 0.03, 0.01, 0.005, 0.005], False),
        # 0.91 * 0.09431 + 0.045 * 3.10109 + 0.02 * 3.91202 = 0.08582 + 0.13955 + 0.07824 = 0.30361
        ([0.91, 0.045, 0.02, 0.0125, 0.0125], True),
        # 0.91 * 0.09431 + 0.04 * 3.21888 + 0.02 * 3.91202 = 0.08582 + 0.12876 + 0.07824 = 0.29282
        ([0.91, 0.04, 0.02, 0.015, 0.015], False),
    ],
)
def test_fly_takes_the_entropy_of_the_three_best_as_they_are_in_nats(p, expected):
    """Li et al., FLy, the authors' calculate_topk_entropy with k = 3 and a threshold of 0.3."""
    sure = [0.97, 0.01, 0.01, 0.005, 0.005]
    policy = FLy(window=2)
    assert (FLy().entropy, FLy().window) == (0.3, 6)
    verification = policy.verify(blocks([p, sure, sure, sure], [sure] * 3, [1, 0, 0]))
    assert verification.accepted.tolist() == [3 if expected else 0]


@pytest.mark.parametrize(
    ("drafted", "accepted"),
    [
        ([1, 0, 0, 0], 4),  # two agree behind it, one more follows: 0 < 4 - 3
        ([1, 0, 0], 0),  # the last three positions are never relaxed
        ([1, 0, 1, 0], 0),  # the second behind it does not agree
        ([0, 1, 0, 0, 0], 5),
        ([0, 1, 0, 0], 1),
        ([1, 0, 0, 1, 0, 0, 0], 7),  # both are followed by two that agree
        ([1, 0, 0, 1, 0, 0], 3),  # the second of them is among the last three
    ],
)
def test_fly_needs_a_window_that_agrees_and_one_token_more(drafted, accepted):
    """FLy: accepted.unfold(1, win_len) == [False, True, True], not in the last win_len places."""
    unsure = [0.5, 0.4, 0.1]
    p = [unsure] * (len(drafted) + 1)
    assert FLy(window=3).verify(blocks(p, p[:-1], drafted)).accepted.tolist() == [accepted]


P, Q = [0.6, 0.4], [0.3, 0.7]
"""For `fuzzy`. KL(P, Q) = 0.6 * 0.69315 - 0.4 * 0.55962 = 0.41589 - 0.22385 = 0.19204.

With M = (0.45, 0.55): KL(P, M) = 0.6 * 0.28768 - 0.4 * 0.31845 = 0.17261 - 0.12738 = 0.04523 and
KL(Q, M) = -0.3 * 0.40547 + 0.7 * 0.24116 = -0.12164 + 0.16881 = 0.04717, so JS = 0.04620.
TV = (0.3 + 0.3) / 2 = 0.3.
"""


@pytest.mark.parametrize(
    ("divergence", "below", "above"),
    [("kl", 0.1920, 0.1921), ("js", 0.0461, 0.0463), ("tv", 0.2999, 0.3001)],
)
def test_fuzzy_compares_the_divergence_of_both_distributions_with_a_threshold(
    divergence, below, above
):
    """Holsman et al., FSD, algorithm 1: accepted if Div(P, Q) <= T."""
    assert not accepted(Fuzzy(below, divergence), P, Q)
    assert accepted(Fuzzy(above, divergence), P, Q)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([0.45, 0.35, 0.2], [0.3, 0.4, 0.3], True),  # 0.45 < 0.5, and 0.4 > 0.5 * 0.45 = 0.225
        ([0.55, 0.25, 0.2], [0.0, 0.9, 0.1], False),  # 0.55 is not below 0.5
        ([0.49, 0.41, 0.1], [0.75, 0.24, 0.01], False),  # 0.24 is not above 0.245
        ([0.49, 0.41, 0.1], [0.74, 0.25, 0.01], True),  # 0.25 > 0.245
    ],
)
def test_cosd_accepts_the_draft_s_token_where_it_is_sure_and_the_target_unsure(p, q, expected):
    """Wang et al., CoSD, rule-based verification with both parameters 0.5, roles swapped."""
    assert (CoSD().alpha, CoSD().beta) == (0.5, 0.5)
    assert accepted(CoSD(), p, q) is expected


@pytest.mark.parametrize(
    ("p", "k", "delta", "expected"),
    [
        ([0.5, 0.2, 0.3], 3, 1.0, True),  # third; log(0.5 / 0.2) = 0.9163
        ([0.5, 0.2, 0.3], 2, 1.0, False),  # not among two
        ([0.6, 0.2, 0.2], 3, 1.0, False),  # log(0.6 / 0.2) = 1.0986
        ([0.6, 0.2, 0.2], 3, 1.1, True),
    ],
)
def test_top_k_wants_a_place_and_a_distance_in_nats(p, k, delta, expected):
    """The idea is TensorRT-LLM's relaxed acceptance; the unit is our own."""
    assert accepted(TopK(k, delta), p, CERTAIN[:3]) is expected


@pytest.mark.parametrize(
    ("q", "margin", "expected"),
    [
        ([0.3, 0.61, 0.09], 0.0, True),  # 0.61 > 0.6
        ([0.3, 0.59, 0.11], 0.0, False),
        ([0.1, 0.79, 0.11], 0.2, False),  # 0.79 is not above 0.8
        ([0.4, 0.41, 0.19], -0.2, True),  # 0.41 > 0.4
    ],
)
def test_confident_follows_the_surer_model(q, margin, expected):
    """Our own: p_draft(d) > p_target(t) + margin."""
    assert accepted(Confident(margin), [0.6, 0.2, 0.2], q) is expected


def test_an_ensemble_is_a_mean_of_logarithms_or_of_probabilities():
    """(0.6, 0.4) and (0.2, 0.8), half and half.

    The geometric means are 0.34641 and 0.56569, brought to sum 1 0.37980 and 0.62020; the
    arithmetic ones 0.4 and 0.6.
    """
    both = blocks([[0.6, 0.4]] * 2, [[0.2, 0.8]], [1])
    for space, expected in (("logprobs", [0.37980, 0.62020]), ("probs", [0.4, 0.6])):
        mean = Ensemble(0.5, space).combined(both)[0, 0].softmax(-1)
        assert mean.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("rule", "cost", "expected"),
    [
        ("chow", 0.46, True),  # 0.55 is not below 0.54
        ("chow", 0.40, False),  # 0.55 < 0.6
        ("difference", 0.06, True),  # 0.55 is not below 0.54
        ("difference", 0.04, False),  # 0.55 < 0.56
        ("optimal", 0.16, True),  # 0.55 is not below 0.6 - 0.16 * 0.35 = 0.544
        ("optimal", 0.14, False),  # 0.55 < 0.6 - 0.14 * 0.35 = 0.551
    ],
)
def test_a_speculative_cascade_defers_where_the_draft_is_not_sure_enough(rule, cost, expected):
    """Narasimhan et al., section 4: Chow's rule, the difference, and the optimal rule.

    p = (0.6, 0.2, 0.2) and q = (0.3, 0.55, 0.15): the largest are 0.6 and 0.55, and of the total
    variation the parts are 0.3 and 0.05 where p is larger, together 0.35.
    """
    policy = SpeculativeCascade(rule, cost)
    assert accepted(policy, [0.6, 0.2, 0.2], [0.3, 0.55, 0.15]) is expected


def test_a_cascade_compares_the_mean_or_the_least_probability_with_its_threshold():
    """Chen et al., FrugalGPT: the first model's answer is accepted from a threshold on.

    Of 0.9, 0.8 and 1 the geometric mean is 0.72 ** (1 / 3) = 0.89628, the least 0.8.
    """
    answer = [math.log(0.9), math.log(0.8), 0.0]
    assert Cascade(0.896).accepts_answer(answer)
    assert not Cascade(0.897).accepts_answer(answer)
    assert Cascade(0.799, "min").accepts_answer(answer)
    assert not Cascade(0.801, "min").accepts_answer(answer)


def test_an_autojudge_is_a_line_over_what_is_known_of_the_mismatch():
    """Garipov et al., AutoJudge, section 3.2: logistic regression, and a threshold.

    2 log 0.5 + 1 * log 0.25 + 3 = -1.38629 - 1.38629 + 3 = 0.22741; 1 / (1 + exp(-0.22741)) =
    0.55661.
    """
    network = Network(2)
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[2.0, 1.0]]))
        network.layers[0].bias.fill_(3.0)
    arbiter = Arbiter(network.requires_grad_(False), ("target_target", "target_draft"))
    p = [0.5, 0.25, 0.25]
    assert accepted(AutoJudge(arbiter, threshold=0.556), p, CERTAIN[:3])
    assert not accepted(AutoJudge(arbiter, threshold=0.557), p, CERTAIN[:3])


# Lossless rules: the example of Sun et al., section 2: p = (1/3, 2/3), q = (2/3, 1/3) at every
# position, blocks of two, of which AA is drafted four times in nine, AB and BA twice, BB once.

DRAFTS = [(0, 0)] * 4 + [(0, 1)] * 2 + [(1, 0)] * 2 + [(1, 1)]
GRID = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
"""Probabilities of a quarter, a half, three quarters and 1 come out exactly on it."""


@pytest.mark.parametrize(
    ("policy", "accepted"),
    [
        # AA: 1/2 + 1/4; AB: 1/2 + 1/2; BA: 1 + 1/2; BB: 1 + 1. Together 4 * 3/4 + 2 + 3 + 2 = 10.
        (Exact(), {(0, 0): 0.75, (0, 1): 1.0, (1, 0): 1.5, (1, 1): 2.0}),
        # AA: 2 * 1/4, as nothing is left over for one; AB: 2; BA: 2 * 1/2 + 1 * 1/2; BB: 2.
        # Together 4 * 1/2 + 4 + 3 + 2 = 11.
        (BlockVerification(), {(0, 0): 0.5, (0, 1): 2.0, (1, 0): 1.5, (1, 1): 2.0}),
    ],
)
def test_token_and_block_verification_accept_ten_and_eleven_ninths(policy, accepted):
    """Leviathan et al., algorithm 1, and Sun et al., algorithm 2, on the latter's example."""
    found = {}
    for drafted in accepted:
        numbers = torch.tensor([[u, v] for u in GRID for v in GRID])
        rows = len(numbers)
        p = torch.tensor([1 / 3, 2 / 3]).expand(rows, 3, 2)
        verification = policy.verify(
            Blocks(
                drafted=torch.tensor([drafted] * rows),
                lengths=torch.full((rows,), 2),
                target_logits=p.log(),
                sampler=Sampler(
                    [SamplingParams(temperature=1.0)] * rows, [[]] * rows, 2, torch.device("cpu")
                ),
                uniforms=lambda slot, count, numbers=numbers: numbers[:, :count],
                draft_probs=torch.tensor([2 / 3, 1 / 3]).expand(rows, 2, 2),
            )
        )
        found[drafted] = float(verification.accepted.float().mean())
    assert found == accepted
    total = 11 if isinstance(policy, BlockVerification) else 10
    assert sum(found[drafted] for drafted in DRAFTS) == total


# Step policies: the numbers on which they decide. The programs are tested elsewhere.


def test_spec_reason_is_the_mean_digit_or_the_likeliest_against_seven():
    """Pan et al., SpecReason: digits 6, 7 and 9 with 0.3, 0.2 and 0.1 of all probability.

    Among the digits 0.5, 1/3 and 1/6 of it: 6 * 0.5 + 7 / 3 + 9 / 6 = 3 + 2.3333 + 1.5 = 6.8333.
    """
    logprobs = [-30.0] * 10
    for digit, probability in ((6, 0.3), (7, 0.2), (9, 0.1)):
        logprobs[digit] = math.log(probability)
    assert SpecReason().threshold == 7.0
    for scoring, expected in (("expected", 6.8333), ("likeliest", 6.0)):
        assert SpecReason(scoring=scoring).utility(logprobs) == pytest.approx(expected, abs=1e-4)


def test_a_reward_of_seven_tenths_is_enough():
    """Liao et al., RSD, and the authors' prm_threshold: accepted if the reward is at least 0.7."""
    assert RewardGuided(reward=lambda prompt, steps, candidate: 0.0).threshold == 0.7
