"""From labelled steps to a score."""

import math
import random

import pytest

from stet.calibration.fitting import fit, score
from stet.calibration.quality import quality
from stet.calibration.samples import StepSample
from stet.core.errors import StetError


def made(count=400, seed=0):
    """Steps with a strong signal, a weak one, one of noise, and one the wrong way round."""
    draw = random.Random(seed)
    steps = []
    for i in range(count):
        good = draw.random() < 0.8
        signals = {
            "worst_logprob": draw.gauss(-0.5 if good else -2.5, 1.0),
            "max_entropy": draw.gauss(1.0 if good else 1.5, 1.0),
            "mean_logprob": draw.gauss(0.0, 1.0),
            "min_margin": draw.gauss(0.0 if good else 2.0, 1.0),
        }
        steps.append(StepSample(str(i // 3), i % 3, 10, signals, good, True))
    return steps


NAMES = ("worst_logprob", "max_entropy", "mean_logprob", "min_margin")


def test_weights_follow_what_signals_are_worth_and_are_never_negative():
    found = fit(made(), NAMES)
    weights = dict(zip(found.signals, found.weights, strict=True))
    assert all(w > 0 for w in found.weights)
    assert sum(found.weights) == pytest.approx(1, abs=1e-3)
    assert weights["worst_logprob"] > 0.5
    assert weights["worst_logprob"] > weights.get("max_entropy", 0) > weights.get("mean_logprob", 0)
    assert found.score.auroc >= max(q.auroc for q in found.qualities if q.name == "worst_logprob")


def test_a_signal_of_the_wrong_sign_is_left_out_and_named():
    found = fit(made(), NAMES)
    assert "min_margin" in found.wrong_way
    assert "min_margin" not in found.signals
    # Little entropy is good: that is its right way round.
    assert "max_entropy" not in found.wrong_way


def test_the_score_is_the_policys_own():
    from stet.policies.step_score import StepScore

    found = fit(made(), NAMES)
    own = StepScore(found.signals, found.weights, found.ranges)
    for step in made(20, seed=3):
        units = own.units(step.signals)
        assert own.mean(list(units.values())) == pytest.approx(score(found, step))
        assert 0 <= score(found, step) <= 1


def test_ranges_turn_a_signal_of_which_less_is_better():
    found = fit(made(), NAMES)
    ranges = dict(zip(found.signals, found.ranges, strict=True))
    worst, best = ranges["worst_logprob"]
    assert worst < best
    if "max_entropy" in ranges:
        worst, best = ranges["max_entropy"]
        assert worst > best


def test_nothing_is_made_of_nothing():
    steps = [s for s in made() if s.good]
    with pytest.raises(StetError, match="same label"):
        fit(steps, NAMES)
    with pytest.raises(StetError, match="No signal"):
        fit(made(), ("min_margin",))


def test_without_any_label_there_is_nothing_to_fit() -> None:
    """Where answers were cut, for one."""
    assert quality("mean_logprob", []) is None
    with pytest.raises(StetError, match="No step has a label.*max_new_tokens"):
        fit([], ["mean_logprob"])


def test_a_constant_signal_does_no_harm():
    steps = [
        StepSample(s.problem, s.index, s.tokens, {**s.signals, "agreement": 1.0}, s.good, True)
        for s in made()
    ]
    found = fit(steps, (*NAMES, "agreement"))
    assert "agreement" not in found.signals
    assert all(math.isfinite(w) for w in found.weights)
