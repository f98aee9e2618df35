import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stet.core.draft_length import expected_tokens
from stet.core.trace import BlockRecord, Counters, RequestTrace, Settings
from stet.doctor.forecast import Acceptance, RequestCosts, forecast

RATES = st.floats(0.05, 0.95)


def trace(n_tokens, *blocks, rounds=None):
    """A request whose blocks are (position, drafted, accepted)."""
    return RequestTrace(
        request=0,
        settings=Settings({}, True, {}, {}, {}, None, "0"),
        prompt="",
        prompt_tokens=1,
        text="",
        finish_reason="stop",
        seconds=0.0,
        tokens=[None] * n_tokens,
        blocks=[
            BlockRecord(at, [0] * drafted, accepted, [], 0) for at, drafted, accepted in blocks
        ],
        counters=Counters(drafts=len(blocks), target_passes=rounds or len(blocks)),
    )


def test_acceptance_counts_accepted_tokens_and_where_blocks_broke():
    found = Acceptance.of([trace(20, (0, 3, 3), (4, 3, 1), (6, 3, 0))], longest=3)
    assert found.stood == (2, 1, 1)
    assert found.fell == (1, 1, 0)
    assert found.rate == 4 / 6
    assert found.accepted_share == pytest.approx((2 / 3, 1 / 3, 1 / 3))


def test_a_short_block_says_nothing_about_what_it_did_not_draft():
    found = Acceptance.of([trace(20, (0, 1, 1), (2, 4, 4))], longest=4)
    assert found.fell == (0, 0, 0, 0)
    assert found.rate == 1


def test_a_block_in_which_the_answer_ends_did_not_break():
    # Two of four accepted tokens were emitted before the stop; the rest is not part of the answer.
    found = Acceptance.of([trace(2, (0, 4, 4))], longest=4)
    assert found.stood == (1, 1, 0, 0)
    assert found.fell == (0, 0, 0, 0)
    # A verification after the end is none of the answer.
    found = Acceptance.of([trace(2, (0, 4, 3))], longest=4)
    assert found.fell == (0, 0, 0, 0)


def test_nothing_drafted_is_no_acceptance():
    found = Acceptance.of([], longest=4)
    assert found.rate == 0
    assert found.tokens_per_pass(4) == 1


@given(RATES, st.integers(1, 12))
def test_with_one_rate_the_expectation_is_the_published_one(rate, length):
    many = 10**6
    found = Acceptance((round(rate * many),), (many - round(rate * many),))
    assert found.tokens_per_pass(length) == pytest.approx(
        expected_tokens(found.rate, length), rel=1e-9
    )


def test_rounds_without_a_draft_gain_nothing():
    found = Acceptance.of([trace(20, (0, 2, 2), rounds=4)], longest=2)
    assert found.drafting == 0.25
    assert found.tokens_per_pass(2) == 1 + 0.25 * 2


def test_passes_between_and_beyond_the_measured_ones():
    costs = RequestCosts({1: 1.0, 5: 2.0, 13: 6.0}, 0.1)
    assert costs.target_pass(5) == 2.0
    assert costs.target_pass(3) == 1.5
    assert costs.target_pass(9) == 4.0
    assert costs.target_pass(17) == 8.0
    assert RequestCosts({1: 1.0}, 0.1).target_pass(9) == 1.0


def test_noise_does_not_make_long_passes_free():
    costs = RequestCosts({1: 1.0, 5: 0.9}, 0.1)
    assert costs.target_pass(17) == 1.0


def test_forecast_by_hand():
    costs = RequestCosts({1: 1.0, 5: 1.0}, 0.25, overhead=0.5, plain_overhead=0.2)
    always = Acceptance((1, 1, 1, 1), (0, 0, 0, 0))
    (row,) = forecast(costs, always, lengths=(4,))
    assert row.tokens_per_pass == 5
    assert row.tokens_per_second == pytest.approx(5 / 2.5)
    assert row.speedup == pytest.approx(1.2 / 0.5)


def test_reading_the_prompt_matters_for_short_answers():
    costs = RequestCosts({1: 1.0}, 0.1, reading=4.0, plain_reading=2.0)
    found = Acceptance((8,), (2,))
    (short,) = forecast(costs, found, answer=4, lengths=(4,))
    (endless,) = forecast(costs, found, answer=math.inf, lengths=(4,))
    assert short.speedup < endless.speedup
    assert short.speedup == pytest.approx((1 + 0.5) / (1.4 / found.tokens_per_pass(4) + 1))


@given(RATES, st.floats(0.01, 1.0))
def test_a_free_perfect_draft_is_never_slower(rate, cost):
    costs = RequestCosts({1: 1.0, 17: 1.0}, 0.0)
    assert all(row.speedup >= 1 for row in forecast(costs, Acceptance((9,), (1,))))
    # and a dearer draft never helps
    many = 10**6
    found = Acceptance((round(rate * many),), (many - round(rate * many),))
    cheap = forecast(RequestCosts({1: 1.0}, cost / 2), found)
    dear = forecast(RequestCosts({1: 1.0}, cost), found)
    assert all(a.speedup >= b.speedup for a, b in zip(cheap, dear, strict=True))
