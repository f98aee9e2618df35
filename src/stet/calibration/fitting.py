"""Fitting the weights and ranges of a score to labelled steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from stet.calibration.quality import Quality, quality
from stet.calibration.samples import StepSample
from stet.core.errors import StetError
from stet.policies.specguard import TARGET_MARGIN
from stet.signals import sign_of

ENDS = (0.02, 0.98)
"""The quantiles of raw values that are normalised to 0 and 1."""

LEAST = 0.05
"""The share of all weights above which a signal stays in the score."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted score.

    Attributes:
        signals: names of the signals in the score.
        weights: weight of each signal; they sum to 1.
        ranges: for each signal the raw values that are normalised to 0 and 1.
        qualities: quality of every signal to choose from.
        wrong_way: signals that were left out because they rank these steps the wrong way round.
        score: quality of the score itself, on the steps it was fitted on.
    """

    signals: tuple[str, ...]
    weights: tuple[float, ...]
    ranges: tuple[tuple[float, float], ...]
    qualities: list[Quality]
    wrong_way: list[str]
    score: Quality | None = None


def fit(
    steps: Sequence[StepSample], names: Sequence[str], *, penalty: float = 1.0, seed: int = 0
) -> Fit:
    """Fit the weights: logistic regression with weights that may not be negative.

    A signal whose ranking is the wrong way round on these steps gets no weight, and is named.

    Args:
        steps: labelled steps.
        names: names of the signals to choose from.
        penalty: factor of the squared weights in the loss.
        seed: seed of the intervals' resampling.

    Raises:
        StetError: there are no steps, all have the same label, or no signal ranks them the right
            way.
    """
    if not steps:
        raise StetError(
            "No step has a label, so no score can be fitted. Take more problems, or a larger "
            "max_new_tokens: what was cut has none."
        )
    qualities = [q for name in names if (q := quality(name, steps, seed)) is not None]
    if not qualities:
        raise StetError(
            "All steps have the same label, so no score can be fitted. Take more problems, or "
            "harder ones."
        )
    able = [q.name for q in qualities if _oriented(q) > 0.5]
    wrong_way = [q.name for q in qualities if _oriented(q) < 0.5]
    if not able:
        raise StetError("No signal ranks good steps above bad ones on these problems.")
    ranges = {name: _range(name, steps) for name in able}
    columns = np.array([[_unit(s.signals[n], ranges[n]) for n in able] for s in steps])
    good = np.array([bool(s.good) for s in steps])
    weights = _fit_weights(columns, good, penalty)
    # A signal of small weight would still cost its computation.
    bar = LEAST * float(weights.sum())
    chosen = [(n, w) for n, w in zip(able, weights, strict=True) if w > bar]
    total = sum(w for _, w in chosen)
    fitted = Fit(
        tuple(n for n, _ in chosen),
        tuple(round(float(w / total), 4) for _, w in chosen),
        tuple(ranges[n] for n, _ in chosen),
        qualities,
        wrong_way,
    )
    scored = [replace(s, signals={"score": score(fitted, s)}) for s in steps]
    return replace(fitted, score=quality("score", scored, seed))


def score(fitted: Fit, step: StepSample) -> float:
    """The score of a step, 0 to 1."""
    return sum(
        w * _unit(step.signals[n], r)
        for n, w, r in zip(fitted.signals, fitted.weights, fitted.ranges, strict=True)
    ) / sum(fitted.weights)


TRUSTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""The values of `target_threshold` to choose from."""


def trust(steps: Sequence[StepSample]) -> float:
    """The value of `target_threshold` that best separates good steps from bad ones.

    That is where the share of good steps that are accepted exceeds the share of bad ones most
    (Youden's index). Among equals the middle one is taken.

    Args:
        steps: labelled steps with the signal of the target's reading.

    Raises:
        StetError: all steps have the same label.
    """
    margins = np.array([s.signals[TARGET_MARGIN] for s in steps])
    good = np.array([bool(s.good) for s in steps])
    if good.all() or not good.any():
        raise StetError("All steps that the target read have the same label; take more problems.")
    gains = [
        float((margins[good] >= bar).mean() - (margins[~good] >= bar).mean())
        for bar in np.log(TRUSTS)
    ]
    best = [t for t, gain in zip(TRUSTS, gains, strict=True) if gain >= max(gains) - 1e-9]
    return best[len(best) // 2]


def _oriented(found: Quality) -> float:
    return found.auroc if sign_of(found.name) > 0 else 1 - found.auroc


def _range(name: str, steps: Sequence[StepSample]) -> tuple[float, float]:
    """The raw values that are normalised to 0 and 1; reversed where less is better."""
    low, high = np.quantile([s.signals[name] for s in steps], ENDS)
    if low == high:
        high = low + 1.0
    low, high = round(float(low), 6), round(float(high), 6)
    return (low, high) if sign_of(name) > 0 else (high, low)


def _unit(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _fit_weights(
    columns: NDArray[np.float64], good: NDArray[np.bool_], penalty: float
) -> NDArray[np.float64]:
    """Fit a logistic regression with weights >= 0; the intercept is not penalised."""
    sign = np.where(good, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = sign * (columns @ weights + bias)
        pull = -sign * expit(-margins)
        value = np.logaddexp(0, -margins).sum() + 0.5 * penalty * weights @ weights
        slope = np.append(columns.T @ pull + penalty * weights, pull.sum())
        return float(value), slope

    start = np.zeros(columns.shape[1] + 1)
    bounds = [(0.0, None)] * columns.shape[1] + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    weights: NDArray[np.float64] = found.x[:-1]
    return weights
