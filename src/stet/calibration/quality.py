"""The quality of a signal: how well it separates good steps from bad ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from stet.calibration.samples import StepSample

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a signal on labelled steps.

    Attributes:
        name: name of the signal.
        auroc: the probability that a good step has more of it than a bad one, ties counted half.
        low: lower end of its 95 % interval, from resampling whole problems.
        high: upper end of that interval.
        within: the AUROC among steps of similar index and length; None where there are no such
            pairs.
    """

    name: str
    auroc: float
    low: float
    high: float
    within: float | None


def auroc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float | None:
    """The area under the ROC curve; None where there are no good or no bad values."""
    if not len(good) or not len(bad):
        return None
    statistic = float(mannwhitneyu(good, bad).statistic)
    return statistic / (len(good) * len(bad))


def quality(name: str, steps: Sequence[StepSample], seed: int = 0) -> Quality | None:
    """Compute the quality of a signal; None where all steps have the same label."""
    values = np.array([s.signals[name] for s in steps], dtype=np.float64)
    good = np.array([bool(s.good) for s in steps], dtype=bool)  # of no steps, too
    whole = auroc(values[good], values[~good])
    if whole is None:
        return None
    low, high = _interval(values, good, [s.problem for s in steps], seed)
    return Quality(name, whole, low, high, _within(steps, values, good))


def _interval(
    values: NDArray[np.float64], good: NDArray[np.bool_], problems: Sequence[str], seed: int
) -> tuple[float, float]:
    """Compute a bootstrap interval over problems: steps of one problem are not independent."""
    members: dict[str, list[int]] = defaultdict(list)
    for place, problem in enumerate(problems):
        members[problem].append(place)
    groups = [np.array(places) for places in members.values()]
    generator = np.random.default_rng(seed)
    found: list[float] = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate(
            [groups[i] for i in generator.integers(len(groups), size=len(groups))]
        )
        value = auroc(values[drawn][good[drawn]], values[drawn][~good[drawn]])
        if value is not None:
            found.append(value)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _within(
    steps: Sequence[StepSample], values: NDArray[np.float64], good: NDArray[np.bool_]
) -> float | None:
    """Compute the AUROC within strata, so that it gains nothing from a step's index or length."""
    median = float(np.median([s.tokens for s in steps]))
    strata: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for place, step in enumerate(steps):
        strata[min(step.index, 6), step.tokens > median].append(place)
    total = weight = 0.0
    for places in strata.values():
        chosen = np.array(places)
        right, wrong = values[chosen][good[chosen]], values[chosen][~good[chosen]]
        value = auroc(right, wrong)
        if value is not None:
            pairs = len(right) * len(wrong)
            total, weight = total + pairs * value, weight + pairs
    return total / weight if weight else None
