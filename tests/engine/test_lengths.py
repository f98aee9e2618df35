"""Blocks of a full round: as long as they pay, for texts that do not depend on them."""

from __future__ import annotations

from typing import Any

import pytest

from stet.core.draft_length import AdaptiveLength, FixedLength
from stet.core.limits import Limits
from stet.core.operations import Draft
from stet.core.sequence import TokenSequence
from stet.engine.costs import Costs
from stet.engine.lengths import Rest, best_plan, fit_blocks

FLAT = Costs(draft={1: 0.1, 16: 0.1}, target={1: 1.0, 160: 1.2})
"""A pass that waits for its weights, however many tokens are in it."""

FULL = Costs(draft={1: 0.1, 16: 1.6}, target={1: 1.0, 2: 2.0, 160: 160.0})
"""A pass whose time is its tokens' alone."""


class Known:
    """Costs that need no measuring."""

    def __init__(self, costs: Costs) -> None:
        self.latest = costs
        self.batches = False

    def measure_batches(self) -> None:
        self.batches = True


def draft(count: int = 15, least: int | None = 0, length: Any = None) -> Draft:
    limits = Limits(draft_length=length or AdaptiveLength(may_rest=True))
    return Draft(TokenSequence([1, 2, 3], limits=limits), count, least=least)


def fitted(drafts: list[Draft], costs: Costs, others: int = 0) -> list[int]:
    known: Any = Known(costs)
    fit_blocks(drafts, others, known)
    return [item.count for item in drafts]


def test_where_verifying_is_free_blocks_stay_long_and_in_a_full_pass_nothing_is_drafted() -> None:
    assert best_plan([0.9] * 16, Rest(), 15, FLAT).length > 8
    assert best_plan([0.9] * 16, Rest(), 15, FULL).length == 0
    lengths = [
        best_plan(
            [0.8] * rows, Rest(), 15, Costs({1: 0.1, 16: 0.2}, {1: 1.0, 16: 1.2, 64: 4.0})
        ).length
        for rows in (1, 4, 16, 64)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_the_length_is_the_one_with_the_best_rate_of_all() -> None:
    costs = Costs({1: 0.2}, {1: 1.0, 13: 1.5, 48: 4.0})
    plan = best_plan([0.8, 0.5, 0.9], Rest(7, 5.0), 15, costs)
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


def test_drafting_ends_at_a_higher_confidence_the_fuller_the_pass() -> None:
    costs = Costs({1: 0.05, 16: 0.1}, {1: 1.0, 16: 1.2, 64: 2.0})
    floors = []
    for rows in (2, 8):
        drafts = [draft() for _ in range(rows)]
        fitted(drafts, costs)
        assert all(item.count for item in drafts)
        floors.append(drafts[0].floor)
    assert 0 < floors[0] < floors[1] <= 0.9
