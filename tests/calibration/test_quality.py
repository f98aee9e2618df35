"""How well a signal tells good steps from bad."""

import random

import numpy as np
import pytest

from stet.calibration.quality import auroc, quality
from stet.calibration.samples import StepSample


def step(problem, value, good, index=0, tokens=10, name="min_logprob"):
    return StepSample(str(problem), index, tokens, {name: value}, good, True)


def by_pairs(good, bad):
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


def test_auroc_is_the_share_of_pairs_that_are_in_order():
    draw = random.Random(0)
    for _ in range(20):
        good = np.array([draw.randint(0, 6) for _ in range(draw.randint(1, 20))], float)
        bad = np.array([draw.randint(0, 5) for _ in range(draw.randint(1, 20))], float)
        assert auroc(good, bad) == pytest.approx(by_pairs(good, bad))
    assert auroc(np.array([]), np.array([1.0])) is None


def test_labels_of_one_kind_say_nothing():
    assert quality("min_logprob", [step(i, i, True) for i in range(5)]) is None


def test_the_interval_counts_problems_and_not_steps():
    draw = random.Random(1)
    singles, copies = [], []
    for problem in range(60):
        good = problem % 2 == 0
        value = draw.gauss(1.0 if good else 0.0, 1.0)
        singles.append(step(problem, value, good))
        copies += [step(problem, value, good) for _ in range(10)]
    alone, many = quality("min_logprob", singles), quality("min_logprob", copies)
    assert alone.auroc == pytest.approx(many.auroc)
    # Ten copies of every step are no more evidence than one.
    assert many.high - many.low == pytest.approx(alone.high - alone.low, abs=0.03)
    assert alone.low < alone.auroc < alone.high


def test_knowing_where_a_step_is_is_no_merit():
    """Late steps are bad and have low values, but among steps of one place the values are noise."""
    draw = random.Random(2)
    steps = []
    for problem in range(200):
        for index in (0, 5):
            good = draw.random() < (0.9 if index == 0 else 0.2)
            steps.append(step(problem, -index + draw.random(), good, index))
    found = quality("min_logprob", steps)
    assert found.auroc > 0.75
    assert found.within == pytest.approx(0.5, abs=0.08)
