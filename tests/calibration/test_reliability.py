"""The reliability curve: bins, intervals by problem, and the expected calibration error."""

import numpy as np
import pytest

from stet.calibration.reliability import BINS, reliability
from stet.calibration.samples import StepSample


def step(problem: int, good: bool) -> StepSample:
    return StepSample(f"p{problem}", 0, 5, {}, good, True)


def test_bins_hold_what_belongs_to_them():
    scores = [0.0, 0.05, 0.1, 0.55, 0.999, 1.0]
    goods = [False, True, False, True, True, True]
    found = reliability([step(i, g) for i, g in enumerate(goods)], scores)
    assert [b.steps for b in found.bins] == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert found.bins[0].good == 0.5
    assert found.bins[0].score == pytest.approx(0.025)
    assert (found.bins[2].good, found.bins[2].score, found.bins[2].good_low) == (None, None, None)
    assert found.good == pytest.approx(4 / 6)
    # Two steps off by 0.475, one by 0.1, one by 0.45, two by 0.0005.
    assert found.error == pytest.approx((2 * 0.475 + 0.1 + 0.45 + 2 * 0.0005) / 6)


def test_a_score_that_is_a_probability_has_a_small_error():
    generator = np.random.default_rng(0)
    scores = generator.uniform(size=20_000)
    steps = [step(i, bool(g)) for i, g in enumerate(generator.uniform(size=20_000) < scores)]
    assert reliability(steps, list(scores)).error < 0.02
    assert reliability(steps, list(1 - scores)).error > 0.4


def test_steps_of_one_problem_say_less_than_steps_of_many():
    goods = [bool(i % 5) for i in range(40)]
    alone = reliability([step(i, g) for i, g in enumerate(goods)], [0.85] * 40).bins[8]
    # The same labels, but eight steps of a problem are right or wrong together.
    together = reliability([step(i // 8, i // 8 > 0) for i in range(40)], [0.85] * 40).bins[8]
    assert alone.good == together.good == 0.8
    assert (alone.problems, together.problems) == (40, 5)
    assert together.good_high - together.good_low > 1.5 * (alone.good_high - alone.good_low)
    assert len(reliability([step(0, True)], [0.5]).bins) == BINS
