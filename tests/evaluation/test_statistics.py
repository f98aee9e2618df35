"""Known values, coverage by simulation, and what must not matter."""

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from stet.core.errors import StetError
from stet.evaluation import statistics as s
from stet.evaluation.statistics import Resamples


@pytest.fixture(scope="module")
def resamples():
    return Resamples(4000, seed=1)


p_value = cache(s.mcnemar_p)


def ends(estimate):
    return pytest.approx((estimate.low, estimate.high), abs=5e-5)


# Shares


@pytest.mark.parametrize(
    ("successes", "answers", "interval"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_with_one_answer_per_question(successes, answers, interval):
    found = s.share([1] * successes + [0] * (answers - successes), [1] * answers)
    assert found.value == successes / answers
    assert interval == ends(found)


def test_answers_that_repeat_each_other_count_once():
    once = s.share([1] * 30 + [0] * 70, [1] * 100)
    five_times = s.share([5] * 30 + [0] * 70, [5] * 100)
    assert (five_times.low, five_times.high) == pytest.approx((once.low, once.high))


def test_answers_that_do_not_depend_on_the_question_all_count():
    rng = np.random.default_rng(0)
    right = rng.binomial(5, 0.3, size=2000)
    clustered = s.share(right, [5] * 2000)
    pooled = s.share(
        rng.permutation(np.repeat([1, 0], [right.sum(), 10000 - right.sum()])), [1] * 10000
    )
    assert clustered.high - clustered.low == pytest.approx(pooled.high - pooled.low, rel=0.1)


def test_answers_never_count_as_more_than_they_are():
    # Nearly every question has two of four right: more alike than chance would have it.
    found = s.share([2] * 99 + [3], [4] * 100)
    pooled = s.share([1] * 201 + [0] * 199, [1] * 400)
    assert (found.low, found.high) == pytest.approx((pooled.low, pooled.high))


@pytest.mark.parametrize("right", [0, 1])
def test_a_share_of_none_or_all_still_has_an_interval(right):
    found = s.share([3 * right] * 20, [3] * 20)
    alone = s.share([right] * 20, [1] * 20)
    assert found == alone
    assert found.high - found.low > 0.15


def test_one_answer_and_none():
    one = s.share([1], [1])
    assert (one.value, one.high) == (1.0, 1.0)
    assert one.low == pytest.approx(0.2065, abs=1e-4)
    nothing = s.share([], [])
    assert math.isnan(nothing.value)
    assert nothing.low is None


@pytest.mark.slow
def test_clustered_shares_cover_what_they_should():
    rng = np.random.default_rng(3)
    truth, covered, pooled_covered = 0.7, 0, 0
    for _ in range(600):
        p = rng.beta(0.7, 0.3, size=120)  # questions are mostly easy or hard
        right = rng.binomial(4, p)
        found = s.share(right, [4] * 120)
        covered += found.low <= truth <= found.high
        pooled = s.share(np.repeat([1, 0], [right.sum(), 480 - right.sum()]), [1] * 480)
        pooled_covered += pooled.low <= truth <= pooled.high
    assert 0.925 <= covered / 600 <= 0.975
    assert pooled_covered / 600 < 0.8  # what clustering is there for


# The bootstrap


def test_resamples_are_the_same_for_the_same_seed_and_are_of_the_right_size():
    one, same, other = Resamples(50, 7), Resamples(50, 7), Resamples(50, 8)
    assert (one.draws(30) == same.draws(30)).all()
    assert (one.draws(30) != other.draws(30)).any()
    assert (one.draws(30).sum(axis=1) == 30).all()
    assert Resamples(3).draws(1).tolist() == [[1], [1], [1]]


def test_resamples_draw_every_unit_equally_often():
    draws = Resamples(20_000, 0).draws(6)
    assert stats.chisquare(draws.sum(axis=0)).pvalue > 1e-3
    counts = np.bincount(draws[:, 0], minlength=7)
    expected = stats.binom.pmf(np.arange(7), 6, 1 / 6) * 20_000
    assert (
        stats.chisquare(counts[:5], expected[:5] * counts[:5].sum() / expected[:5].sum()).pvalue
        > 1e-3
    )


def test_sums_over_resamples():
    resamples = Resamples(40, 2)
    columns = np.random.default_rng(0).random((17, 3))
    by_hand = [
        [sum(draw[u] * columns[u, c] for u in range(17)) for c in range(3)]
        for draw in resamples.draws(17).tolist()
    ]
    assert np.allclose(resamples.sums(columns), by_hand)


def test_large_samples_are_drawn_in_parts():
    draws = Resamples(300, 0).draws(5000)  # more than is held at a time
    assert (draws.sum(axis=1) == 5000).all()
    assert len(np.unique(draws, axis=0)) == 300


def test_no_resamples_are_refused():
    with pytest.raises(StetError, match="at least one resample"):
        Resamples(0)


def test_the_interval_of_a_ratio_is_scipys_for_many_units(resamples):
    rng = np.random.default_rng(5)
    below = rng.lognormal(0, 0.6, 400)
    above = below * rng.lognormal(0.5, 0.3, 400)
    found = s.ratio(above, below, resamples)
    assert found.value == pytest.approx(above.sum() / below.sum())
    theirs = stats.bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        # The name that scipy up to 1.14 has, and later versions take.
        random_state=np.random.default_rng(1),
    ).confidence_interval
    length = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.06 * length)
    assert found.high == pytest.approx(theirs.high, abs=0.06 * length)


@pytest.mark.slow
@pytest.mark.parametrize("units", [8, 60])
def test_speed_ups_are_covered_also_with_few_units(units):
    rng = np.random.default_rng(units)
    resamples, covered, plain = Resamples(1500, 0), 0, 0
    for _ in range(500):
        below = rng.lognormal(0, 0.5, units)
        above = below * rng.lognormal(0.6, 0.2, units)  # independent factor: the mean is the truth
        truth = math.exp(0.6 + 0.02)
        found = s.ratio(above, below, resamples)
        covered += found.low <= truth <= found.high
        sums = resamples.sums(np.column_stack([above, below]))
        low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
        plain += low <= truth <= high
    assert 0.92 <= covered / 500 <= 0.985
    if units == 8:
        assert plain / 500 < 0.92  # what the widening is for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p_gained", "p_lost", "questions", "seeds"),
    [(0.1, 0.05, 150, 1), (0.02, 0.02, 300, 1), (0.15, 0.1, 120, 3)],
)
def test_gains_are_covered(p_gained, p_lost, questions, seeds):
    rng = np.random.default_rng(11)
    resamples, covered = Resamples(1500, 0), 0
    for _ in range(500):
        # With several seeds a question tends to go one way.
        which = rng.multinomial(1, [p_gained, p_lost, 1 - p_gained - p_lost], size=questions)
        alike = rng.binomial(seeds - 1, 0.7, size=questions) + 1
        found = s.gain(
            which[:, 0] * alike, which[:, 1] * alike, np.full(questions, seeds), resamples
        )
        truth = (p_gained - p_lost) * (1 + 0.7 * (seeds - 1)) / seeds
        covered += found.low - 1e-9 <= truth <= found.high + 1e-9
    assert 0.925 <= covered / 500 <= 0.98


def test_no_difference_is_not_certainty(resamples):
    found = s.gain([0] * 300, [0] * 300, [1] * 300, resamples)
    # The upper end of Wilson's interval for none of 300.
    assert found.value == 0
    assert (found.low, found.high) == pytest.approx((-0.01264, 0.01264), abs=1e-5)


def test_gained_and_lost_differ_by_sign_only(resamples):
    gained, lost = [1] * 9 + [0] * 91, [0] * 96 + [1] * 4
    found = s.gain(gained, lost, [1] * 100, resamples)
    turned = s.gain(lost, gained, [1] * 100, resamples)
    assert found.value == pytest.approx(0.05)
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_few_units_have_no_interval(resamples):
    assert s.ratio([1, 2, 3, 4], [1, 1, 1, 1], resamples) == s.Estimate(2.5)
    assert s.gain([1, 0], [0, 0], [1, 1], resamples) == s.Estimate(0.5)
    assert s.gain([0, 0], [0, 0], [1, 1], resamples) == s.Estimate(0.0)
    assert s.ratio([1, 2, 3, 4, 6], [1, 1, 1, 1, 2], resamples).low is not None


def test_zero_seconds_give_no_speed_up(resamples):
    assert math.isnan(s.ratio([1.0] * 6, [0.0] * 6, resamples).value)
    assert math.isnan(s.ratio([], [], resamples).value)
    partly = s.ratio([1.0] * 6, [1.0] + [0.0] * 5, resamples)
    assert (partly.value, partly.low) == (6.0, None)


# Tests


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),
        (6, 0, 0.03125),
        (10, 3, 0.09228515625),
        (3, 10, 0.09228515625),
        (4, 4, 1.0),
        # 2 * P(Binomial(20, 1/2) <= 5), a table of the sign test.
        (15, 5, 0.041389465332),
    ],
)
def test_mcnemars_exact_test(gained, lost, p):
    assert s.mcnemar_p(gained, lost) == pytest.approx(p)


def test_holm():
    # Holm, Scandinavian J. of Statistics 6 (1979): the smallest times 3, the next times 2, ...
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert s.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert s.holm([0.2]) == [0.2]
    assert s.holm([0.9, 0.8]) == [1.0, 1.0]
    assert s.holm([]) == []


# Power


def test_power_is_what_simulation_finds():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(200, [0.10, 0.04, 0.86], size=4000)
    found = np.mean([p_value(b, c) < 0.05 for b, c, _ in counts.tolist()])
    assert s.mcnemar_power(0.06, 0.14, 200) == pytest.approx(found, abs=0.02)


def test_power_without_a_difference_is_at_most_the_level():
    assert 0.02 < s.mcnemar_power(0.0, 0.2, 300) <= 0.05
    assert s.mcnemar_power(0.0, 0.2, 5) == 0


def test_power_agrees_with_connors_approximation_for_many_questions():
    # Connor, Biometrics 43 (1987) 207-211.
    n, discordance, difference = 5000, 0.12, 0.015
    z = stats.norm.ppf(0.975)
    connor = stats.norm.cdf(
        (difference * math.sqrt(n) - z * math.sqrt(discordance))
        / math.sqrt(discordance - difference**2)
    )
    assert s.mcnemar_power(difference, discordance, n) == pytest.approx(connor, abs=0.01)


@pytest.mark.parametrize(("discordance", "questions"), [(0.12, 300), (0.05, 1300), (0.4, 60)])
def test_the_detectable_difference_has_the_power_it_promises(discordance, questions):
    difference = s.detectable(discordance, questions)
    assert s.mcnemar_power(difference, discordance, questions) == pytest.approx(0.8, abs=1e-3)
    rng = np.random.default_rng(questions)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    counts = rng.multinomial(questions, shares, size=3000)
    found = np.mean([p_value(b, c) < 0.05 for b, c, _ in counts.tolist()])
    assert found == pytest.approx(0.8, abs=0.03)


def test_a_difference_larger_than_the_discordance_is_all_of_it():
    # One of 300 differed: no difference of 1/300 could be found; one all one way is.
    difference = s.detectable(1 / 300, 300)
    assert difference > 1 / 300
    assert s.mcnemar_power(difference, difference, 300) == pytest.approx(0.8, abs=1e-3)


def test_more_questions_detect_less_and_more_discordance_more():
    assert s.detectable(0.1, 1000) < s.detectable(0.1, 300) < s.detectable(0.2, 300)


def test_nothing_is_detectable_where_nothing_differs_or_too_few_are_asked():
    assert s.detectable(0.0, 300) is None
    assert s.detectable(0.5, 5) is None  # 5 to 0 has p = 0.0625
    assert s.detectable(0.5, 8) is not None


# Signals


def test_separation():
    assert s.separation([3, 4], [1, 2]) == 1
    assert s.separation([1, 2], [3, 4]) == 0
    assert s.separation([1, 3], [2]) == 0.5
    assert s.separation([1, 1, 1], [1, 1]) == 0.5
    assert s.separation([], [1]) is None
    assert s.separation([1], []) is None
