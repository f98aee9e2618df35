"""The reliability of a score: the share of good steps among steps of similar score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stet.calibration.samples import StepSample
from stet.evaluation.statistics import share

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of steps of similar score.

    Attributes:
        low: smallest score of the bin.
        high: smallest score of the next bin; a score of 1 belongs to the last bin.
        steps: number of steps.
        problems: number of problems that they are from.
        score: mean score; None where there are no steps.
        good: share of good steps.
        good_low: lower end of the share's 95 % interval, clustered by problem.
        good_high: upper end of that interval.
    """

    low: float
    high: float
    steps: int
    problems: int
    score: float | None = None
    good: float | None = None
    good_low: float | None = None
    good_high: float | None = None


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability curve.

    Attributes:
        bins: bins of equal width, from 0 to 1.
        error: expected calibration error of the score read as the probability of a good step: the
            mean over steps of the difference between a bin's mean score and its share of good ones.
        good: share of good steps among all.
    """

    bins: list[Bin]
    error: float
    good: float


def reliability(steps: Sequence[StepSample], scores: Sequence[float]) -> Reliability:
    """Compute the reliability curve of a score, 0 to 1, on labelled steps.

    The expected calibration error is that of Naeini, Cooper and Hauskrecht, "Obtaining well
    calibrated probabilities using Bayesian binning", AAAI 2015, with bins of equal width.
    """
    places = np.minimum((np.asarray(scores) * BINS).astype(int), BINS - 1)
    bins = [
        _bin(
            index,
            [s for s, p in zip(steps, places, strict=True) if p == index],
            [x for x, p in zip(scores, places, strict=True) if p == index],
        )
        for index in range(BINS)
    ]
    error = sum(
        b.steps * abs(b.score - b.good) for b in bins if b.score is not None and b.good is not None
    ) / len(steps)
    return Reliability(bins, float(error), sum(bool(s.good) for s in steps) / len(steps))


def _bin(index: int, steps: Sequence[StepSample], scores: Sequence[float]) -> Bin:
    low, high = index / BINS, (index + 1) / BINS
    if not steps:
        return Bin(low, high, 0, 0)
    of_problem = Counter(s.problem for s in steps)
    good_of = Counter(s.problem for s in steps if s.good)
    found = share([good_of[p] for p in of_problem], list(of_problem.values()))
    return Bin(
        low,
        high,
        len(steps),
        len(of_problem),
        float(np.mean(scores)),
        found.value,
        found.low,
        found.high,
    )
