"""How many tokens to draft: from a sequence's own history and frozen costs alone."""

from __future__ import annotations

import random

import pytest

from stet.core.draft_length import (
    LONGEST,
    AdaptiveLength,
    FixedLength,
    History,
    best_length,
    describe,
    expected_tokens,
)
from stet.core.errors import OptionError


def history(blocks: list[tuple[int, int]]) -> History:
    made = History()
    for drafted, accepted in blocks:
        made.add(drafted, accepted)
    return made


def test_a_fixed_length_is_fixed():
    rule = FixedLength(7, min_confidence=0.2)
    for past in (history([]), history([(7, 0)] * 9), history([(7, 7)] * 9)):
        assert rule.next_block(past) == rule.longest == 7
        assert rule.floor(past) == 0.2


def test_expected_tokens_is_what_a_simulation_gives():
    probability = random.Random(0)
    for acceptance, length in [(0.3, 4), (0.8, 5), (0.95, 10)]:
        total = 0
        for _ in range(20_000):
            tokens = 1
            while tokens <= length and probability.random() < acceptance:
                tokens += 1
            total += tokens
        assert expected_tokens(acceptance, length) == pytest.approx(total / 20_000, rel=0.02)
    assert expected_tokens(1.0, 6) == 7


def test_the_best_length_has_the_best_rate():
    for acceptance in (0.1, 0.5, 0.8, 0.95):
        for cost in (0.05, 0.2, 0.5):
            rates = [expected_tokens(acceptance, n) / (1 + n * (cost + 0.02)) for n in range(1, 33)]
            assert best_length(acceptance, cost, 0.02) == 1 + rates.index(max(rates))


def test_better_acceptance_and_cheaper_drafts_make_longer_blocks():
    lengths = [best_length(a / 20, 0.1, 0.02) for a in range(1, 20)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert lengths[-1] > 8
    costs = [best_length(0.8, c / 20, 0.02) for c in range(1, 20)]
    assert costs == sorted(costs, reverse=True)


def test_adaptive_lengths_follow_the_history_and_stay_in_bounds():
    rule = AdaptiveLength(draft_cost=0.1, longest=9)
    poor, good = history([(5, 0)] * 30), history([(9, 9)] * 30)
    assert rule.next_block(poor) <= 2
    assert rule.next_block(good) == 9
    assert 1 < rule.next_block(History()) < 9
    # What is long past counts for less.
    turned = history([(9, 9)] * 30 + [(5, 0)] * 30)
    assert rule.next_block(turned) <= 2


def test_the_estimate_starts_at_the_prior_and_finds_the_truth():
    rule = AdaptiveLength(prior_acceptance=0.7)
    assert rule.acceptance(History()) == pytest.approx(0.7)
    probability = random.Random(1)
    past, found = History(), []
    for _ in range(4000):
        accepted = 0
        while accepted < 6 and probability.random() < 0.85:
            accepted += 1
        past.add(6, accepted)
        found.append(rule.acceptance(past))
    assert sum(found) / len(found) == pytest.approx(0.85, abs=0.03)


def test_by_confidence_a_block_may_grow_until_a_further_token_does_not_pay():
    rule = AdaptiveLength(draft_cost=0.2, by_confidence=True, longest=12)
    poor, good = history([(5, 0)] * 30), history([(9, 9)] * 30)
    for past in (poor, good, History()):
        assert rule.next_block(past) == 12
        assert 0 < rule.floor(past) <= 0.9
    cheap = AdaptiveLength(draft_cost=0.01, by_confidence=True)
    assert cheap.floor(History()) < rule.floor(History())
    strict = AdaptiveLength(draft_cost=0.01, by_confidence=True, min_confidence=0.8)
    assert strict.floor(History()) >= 0.8
    assert AdaptiveLength(min_confidence=0.1).floor(good) == 0.1


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (FixedLength, {"tokens": 0}),
        (FixedLength, {"tokens": LONGEST + 1}),
        (FixedLength, {"min_confidence": 1.0}),
        (FixedLength, {"min_confidence": -0.1}),
        (AdaptiveLength, {"longest": 0}),
        (AdaptiveLength, {"longest": LONGEST + 1}),
        (AdaptiveLength, {"draft_cost": -0.1}),
        (AdaptiveLength, {"position_cost": -0.1}),
        (AdaptiveLength, {"prior_acceptance": 1.0}),
        (AdaptiveLength, {"min_confidence": 1.5}),
    ],
)
def test_values_that_make_no_sense_are_refused(rule: type, settings: dict):
    with pytest.raises(OptionError):
        rule(**settings)


def test_a_rule_describes_itself_with_all_its_numbers():
    described = describe(AdaptiveLength(draft_cost=0.25))
    assert described["rule"] == "AdaptiveLength"
    assert described["draft_cost"] == 0.25
    assert AdaptiveLength(**{k: v for k, v in described.items() if k != "rule"}) == AdaptiveLength(
        draft_cost=0.25
    )


def test_leniency_is_learnt_from_accepted_mismatches_alone():
    past = History()
    assert past.leniency == 0
    for _ in range(20):
        past.add(5, 3)
    assert past.leniency == 0
    lenient = History()
    for _ in range(40):
        lenient.add(8, 8, accepted_mismatches=2)
    assert 0.9 < lenient.leniency < 1
    mixed = History()
    for _ in range(40):
        mixed.add(8, 4, accepted_mismatches=1)  # one is accepted, one rejected
    assert mixed.leniency == pytest.approx(0.5, abs=0.05)


def time_of(rule: AdaptiveLength | FixedLength, acceptance: float, cost: float, seed: int) -> float:
    """Target passes, drafting included, that 200 tokens take."""
    chance, past, tokens, time = random.Random(seed), History(), 0, 0.0
    unread = 0
    while tokens < 200:
        drafted = rule.next_block(past)
        # In a pass of its own the draft reads what was written without it.
        time += (unread > 0 and drafted > 0) * cost * (1 + 0.05 * unread)
        unread = 0 if drafted else unread + 1
        accepted = 0
        while accepted < drafted and chance.random() < acceptance:
            accepted += 1
        time += 1 + drafted * cost
        tokens += accepted + 1
        rule.update(past, drafted, accepted, 0)
    return time


@pytest.mark.parametrize("acceptance", [0.0, 0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("draft", "position"), [(0.35, 0.2), (0.3, 0.02), (0.12, 0.02)])
def test_no_sequence_loses_much_to_the_better_of_the_target_alone_and_the_best_length(
    acceptance: float, draft: float, position: float
):
    costs = {"draft_cost": draft, "position_cost": position}
    rule = AdaptiveLength(**costs, prior_weight=1.0, may_rest=True)

    def mean(rule: AdaptiveLength | FixedLength) -> float:
        return sum(time_of(rule, acceptance, draft + position, seed) for seed in range(60)) / 60

    best = min(200.0, *(mean(FixedLength(length)) for length in (1, 2, 3, 4, 6, 8, 12)))
    assert mean(rule) < 1.06 * best
    without = AdaptiveLength(**costs, prior_weight=1.0)
    if acceptance == 0.0:
        assert mean(without) > 1.1 * best, "resting is what makes the difference"


def test_a_sequence_that_becomes_easy_is_drafted_again():
    rule, past = AdaptiveLength(draft_cost=0.3, may_rest=True), History()
    lengths = []
    for turn in range(700):
        drafted = rule.next_block(past)
        rule.update(past, drafted, drafted if turn >= 300 else 0, 0)
        lengths.append(drafted)
    assert sum(n > 0 for n in lengths[100:300]) < 10
    assert all(lengths[600:])


@pytest.mark.parametrize(
    ("draft", "position", "trials"), [(0.4, 0.15, 3), (0.25, 0.06, 4), (0.12, 0.02, 7)]
)
def test_where_nothing_is_accepted_trials_end_soon_if_they_are_dear(
    draft: float, position: float, trials: int
):
    rule, past = AdaptiveLength(draft, position, may_rest=True), History()
    drafted = []
    for _ in range(100):
        drafted.append(rule.next_block(past))
        rule.update(past, drafted[-1], 0, 0)
    found = sum(length > 0 for length in drafted)
    assert found == trials if trials < 5 else found >= trials


@pytest.mark.parametrize(
    ("prompt", "most", "drafts"),
    [
        (640, 48, False),  # the draft reads for 24 passes; 48 tokens save 10
        (640, 200, True),
        (100, 4, True),  # so short a prompt is not counted
    ],
)
def test_an_answer_too_short_to_earn_back_the_drafts_reading_is_the_targets(prompt, most, drafts):
    rule = AdaptiveLength(0.38, 0.1, may_rest=True, read_cost=0.038)
    history = rule.begin(prompt, most)
    lengths = []
    for _ in range(most):
        lengths.append(rule.next_block(history))
        rule.update(history, lengths[-1], lengths[-1], 0)
    assert any(lengths) is drafts
    assert AdaptiveLength(0.38, 0.1, read_cost=0.038).begin(prompt, most) == History()
    assert FixedLength(4).begin(prompt, most) == History()


def test_a_sure_draft_of_which_nothing_is_accepted_soon_writes_short_blocks():
    rule, past = AdaptiveLength(0.3, 0.05, by_confidence=True, may_rest=True), History()
    lengths = []
    for _ in range(40):
        lengths.append(rule.next_block(past))
        rule.update(past, lengths[-1], 0, 0)
    assert lengths[0] == rule.longest
    assert max(lengths[1:]) <= 3
    rule.update(past, 3, 2, 0)
    past.rest = 0
    assert rule.next_block(past) == rule.longest


def test_a_rule_that_may_not_rest_always_drafts():
    rule, past = AdaptiveLength(draft_cost=0.5), History()
    for _ in range(100):
        assert rule.next_block(past) >= 1
        rule.update(past, rule.next_block(past), 0, 0)
