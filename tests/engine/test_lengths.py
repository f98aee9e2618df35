"""Blocks of a full round: as long as they pay, for texts that do not depend on them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stet.core.draft_length import AdaptiveLength, FixedLength, expected_tokens
from stet.core.limits import Limits
from stet.core.operations import Draft
from stet.core.row import Row
from stet.core.sequence import TokenSequence
from stet.engine.costs import Costs
from stet.engine.lengths import Prospect, Reading, Rest, best_plan, fit_blocks
from stet.engine.round_times import RoundTimes
from stet.policies import Ensemble, Exact
from stet.programs import speculative

FLAT = Costs(draft={1: 0.1, 16: 0.1}, target={1: 1.0, 160: 1.2})
"""A pass that waits for its weights, however many tokens are in it."""

FULL = Costs(draft={1: 0.1, 16: 1.6}, target={1: 1.0, 2: 2.0, 160: 160.0})
"""A pass whose time is its tokens' alone."""


def draft(count: int = 15, least: int | None = 0, length: Any = None) -> Draft:
    limits = Limits(draft_length=length or AdaptiveLength(may_rest=True))
    return Draft(TokenSequence([1, 2, 3], limits=limits), count, least=least)


def fitted(drafts: list[Draft], costs: Costs, others: int = 0) -> list[int]:
    fit_blocks(drafts, others, costs)
    return [item.count for item in drafts]


def test_where_verifying_is_free_blocks_stay_long_and_in_a_full_pass_nothing_is_drafted() -> None:
    assert best_plan([Prospect(0.9)] * 16, Rest(), 15, FLAT).length > 8
    assert best_plan([Prospect(0.9)] * 16, Rest(), 15, FULL).length == 0
    lengths = [
        best_plan(
            [Prospect(0.8)] * rows, Rest(), 15, Costs({1: 0.1, 16: 0.2}, {1: 1.0, 16: 1.2, 64: 4.0})
        ).length
        for rows in (1, 4, 16, 64)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_the_length_is_the_one_with_the_best_rate_of_all() -> None:
    costs = Costs({1: 0.2}, {1: 1.0, 13: 1.5, 48: 4.0})
    plan = best_plan([Prospect(a) for a in (0.8, 0.5, 0.9)], Rest(7, 5.0), 15, costs)
    rates = []
    for length in range(16):
        tokens = sum((1 - a ** (length + 1)) / (1 - a) for a in (0.8, 0.5, 0.9))
        rates.append((5.0 + tokens) / (costs.target_pass(3 * (length + 1) + 7) + 0.2 * length))
    assert plan.length == rates.index(max(rates))
    assert plan.rate == pytest.approx(max(rates))


def test_only_texts_that_do_not_depend_on_it_are_drafted_less() -> None:
    drafts = [draft(), draft(least=1), draft(least=None), draft(5, None, FixedLength(5))]
    dear = Costs(draft={1: 1.0, 16: 16.0}, target=FULL.target)
    assert fitted(drafts, dear) == [0, 1, 15, 5]
    assert [item.floor for item in drafts[2:]] == [None, None]


def test_one_request_alone_keeps_to_its_own_rule() -> None:
    assert fitted([draft()], FULL) == [15]
    assert fitted([draft()], FULL, others=6) == [0]


def test_a_draft_has_to_earn_back_what_it_must_read_first() -> None:
    costs = Costs({1: 0.3, 16: 0.4}, {1: 1.0, 13: 1.6, 64: 3.0})
    assert costs.reading == pytest.approx(0.3 * 0.05)
    lengths = [
        best_plan([Prospect(0.8)] * 8, Rest(), 15, costs, Reading(seconds, 400.0)).length
        for seconds in (0.0, 1.0, 60.0)
    ]
    assert lengths[0] == lengths[1] > 0
    assert lengths[2] == 0

    def counts(prompt: int, most: int, read: int = 0) -> list[int]:
        limits = Limits(max_new_tokens=most, draft_length=AdaptiveLength(may_rest=True))
        drafts = [Draft(TokenSequence([1] * prompt, limits=limits), 5, least=0) for _ in range(8)]
        for item in drafts:
            if read:
                item.sequence.rows["draft"] = Row(valid=read)
        # What was never drafted would be tried now, if it was cheap.
        fit_blocks(drafts, 0, costs, RoundTimes(plain=0))
        return [item.count for item in drafts]

    assert not any(counts(600, 24))
    assert any(counts(600, 2000))
    assert any(counts(600, 24, read=599))
    assert any(counts(8, 24))


def test_drafting_ends_at_a_higher_confidence_the_fuller_the_pass() -> None:
    costs = Costs({1: 0.05, 16: 0.1}, {1: 1.0, 16: 1.2, 64: 2.0})
    floors = []
    for rows in (2, 8):
        drafts = [draft() for _ in range(rows)]
        fitted(drafts, costs)
        assert all(item.count for item in drafts)
        floors.append(drafts[0].floor)
    assert 0 < floors[0] < floors[1] <= 0.9


def simulate(costs: Costs, acceptance: float, rows: int = 16, rounds: int = 600) -> float:
    """Seconds per token of a batch, over those of the better of no drafting and the best length."""
    chance, times = random.Random(1), RoundTimes()
    wrong = Costs({1: 0.1}, {1: 1.0, 13: 1.2})
    sequences = [draft().sequence for _ in range(rows)]
    rule = AdaptiveLength(wrong.draft_cost, wrong.position_cost, by_confidence=True, may_rest=True)

    def seconds(length: int) -> float:
        return costs.target_pass(rows * (length + 1)) + length * costs.draft_pass(rows)

    took = tokens = 0.0
    for _ in range(rounds):
        wanted = [Draft(s, rule.next_block(s.history), least=0) for s in sequences]
        fit_blocks(wanted, 0, wrong, times)
        steps = max(item.count for item in wanted)
        positions = rows + sum(item.count for item in wanted)
        if steps:
            times.add_draft([steps] * rows, steps * costs.draft_pass(rows))
            took += steps * costs.draft_pass(rows)
        times.add_score(positions, costs.target_pass(positions), drafted=steps > 0)
        took += costs.target_pass(positions)
        for item in wanted:
            accepted = 0
            while accepted < item.count and chance.random() < acceptance:
                accepted += 1
            tokens += accepted + 1
            rule.update(item.sequence.history, item.count, accepted, 0)
    best = min(
        seconds(n) / rows / expected_tokens(acceptance, n) for n in (0, 1, 2, 3, 4, 6, 8, 12)
    )
    return took / tokens / best


FREE = Costs(draft={1: 0.1, 16: 0.1}, target={1: 1.0, 400: 1.2})
MIDDLING = Costs(draft={1: 0.1, 16: 0.4}, target={1: 1.0, 16: 1.2, 64: 3.0, 256: 12.0})


@pytest.mark.parametrize("costs", [FREE, MIDDLING, FULL])
@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.8, 0.95])
def test_rounds_show_what_measured_costs_had_wrong(costs: Costs, acceptance: float) -> None:
    assert simulate(costs, acceptance) < 1.08


def test_a_single_slow_round_is_soon_forgotten() -> None:
    times = RoundTimes()
    for _ in range(20):
        times.add_score(16, 1.0, drafted=True)
    times.add_score(16, 60.0, drafted=True)
    assert times.corrected(FULL).target_pass(16) < 1.2
    for _ in range(10):
        times.add_score(16, 1.0, drafted=True)
    assert times.corrected(FULL).target_pass(16) == pytest.approx(1.0, rel=0.01)


def lenient(count: int = 15) -> Draft:
    """The block of a policy that decides about every token of the draft."""
    limits = Limits(draft_length=AdaptiveLength())
    return Draft(TokenSequence([1, 2, 3], limits=limits), count, least=1, bonus=False)


def test_a_lenient_policys_blocks_are_fitted_too_but_never_empty() -> None:
    assert set(fitted([lenient() for _ in range(16)], FULL)) == {1}
    assert min(fitted([lenient() for _ in range(16)], FLAT)) > 5
    mixed = fitted([lenient(), draft(), lenient(), draft()], FULL)
    assert mixed == [1, 0, 1, 0]
    # A fixed length is what was asked for.
    assert fitted([draft(7, least=None), lenient()], FULL)[0] == 7


def test_a_block_without_a_bonus_token_takes_a_position_less_and_brings_less() -> None:
    with_bonus, without = Prospect(0.8), Prospect(0.8, bonus=False, least=1)
    for length in range(1, 9):
        # All up to the first rejected token, which is replaced; or the whole block.
        chances = [0.8**n * 0.2 for n in range(length)]
        brought = sum((n + 1) * p for n, p in enumerate(chances)) + length * 0.8**length
        assert without.tokens(length) == pytest.approx(brought)
        assert without.tokens(length) == pytest.approx(with_bonus.tokens(length) - 0.8**length)
        assert without.positions(length) == with_bonus.positions(length) - 1 == length
    assert (without.tokens(0), without.positions(0)) == (1.0, 1)


def test_rounds_that_cannot_do_without_a_draft_try_nothing_out() -> None:
    times = RoundTimes()
    for _ in range(1000):
        drafts = [lenient() for _ in range(4)]
        fit_blocks(drafts, 0, FLAT, times)
        assert {item.count for item in drafts} != {1}
        times.add_score(16, 1.0, drafted=None)


@pytest.mark.parametrize(("policy", "least"), [(Exact(), 0), (Ensemble(), 1)])
def test_the_program_says_how_far_a_block_may_be_shortened(policy: Any, least: int) -> None:
    for fits, wanted in ((True, least), (False, None)):
        limits = Limits(draft_length=AdaptiveLength(fits=fits))
        asked = next(speculative(TokenSequence([1, 2], limits=limits), policy))
        assert isinstance(asked, Draft)
        assert asked.least == wanted
        assert asked.bonus is isinstance(policy, Exact)
