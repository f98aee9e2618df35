"""Choosing a threshold, and what may be said of it."""

import numpy as np
import pytest
from scipy.stats import binom

from stet.calibration.choosing import ThresholdPoint, Wish, choose, with_bounds
from stet.core.errors import StetError

POINTS = [
    ThresholdPoint(0.2, 100, 80, 0.2, 0.9, 12),
    ThresholdPoint(0.5, 100, 88, 0.3, 0.6, 3),
    ThresholdPoint(0.7, 100, 88, 0.4, 0.4, 1),
    ThresholdPoint(0.9, 100, 86, 0.6, 0.1, 0),
]


@pytest.mark.parametrize(
    ("wish", "threshold"),
    [
        (Wish("accuracy"), 0.5),
        (Wish("speed", 0.86), 0.5),
        (Wish("speed", 0.80), 0.2),
        (Wish("keep", 0.5), 0.5),
        (Wish("latency", 0.25), 0.2),
        (Wish("latency", 0.6), 0.5),
    ],
)
def test_every_wish_gets_the_threshold_that_it_asks_for(wish, threshold):
    assert choose(POINTS, wish).threshold == threshold


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (Wish("speed", 0.95), r"answers 95\.0% rightly; the best 88\.0%"),
        (Wish("keep", 0.95), r"accepts 95\.0% of the steps; the most 90\.0%"),
        (Wish("latency", 0.1), r"the fastest 0\.2 s"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_best_there_is(wish, sentence):
    with pytest.raises(StetError, match=sentence):
        choose(POINTS, wish)


def test_a_bound_on_risk_is_an_exact_test_corrected_for_all_thresholds():
    points = with_bounds(POINTS, 0.1)
    for point in points:
        tail = sum(binom.pmf(k, 100, 0.1) for k in range(point.losses + 1))
        assert point.p_value == pytest.approx(tail)
    chosen = choose(points, Wish("risk", 0.1, 0.05))
    able = [p for p in points if p.p_value <= 0.05 / 4]
    assert chosen.kept == max(p.kept for p in able)
    assert chosen.threshold == 0.5
    with pytest.raises(StetError, match="take more problems"):
        choose(with_bounds(POINTS, 0.001), Wish("risk", 0.001))


def test_the_bound_holds_as_often_as_it_says():
    """Thresholds of known risks, many draws: the chosen one is above alpha in delta at most."""
    risks, kept = np.array([0.14, 0.12, 0.101, 0.07, 0.03]), [0.9, 0.8, 0.7, 0.6, 0.3]
    alpha, delta, draws = 0.1, 0.1, 4000
    generator = np.random.default_rng(0)
    failed = chosen = 0
    for _ in range(draws):
        losses = generator.binomial(300, risks)
        points = [
            ThresholdPoint(float(i), 300, 0, 1.0, kept[i], int(x)) for i, x in enumerate(losses)
        ]
        try:
            found = choose(with_bounds(points, alpha), Wish("risk", alpha, delta))
        except StetError:
            continue
        chosen += 1
        failed += risks[int(found.threshold)] > alpha
    assert chosen > draws / 2
    # Three standard errors above the promised rate would be a broken promise.
    assert failed / draws <= delta + 3 * (delta * (1 - delta) / draws) ** 0.5


def test_losses_that_nobody_looked_at_are_no_zeros():
    with pytest.raises(StetError, match="not measured"):
        with_bounds([ThresholdPoint(0.5, 10, 9, 1.0, 0.5)], 0.1)
