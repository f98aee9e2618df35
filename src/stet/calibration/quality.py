"""How well a signal tells good steps from bad."""

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
    """A signal on labelled steps.

    Attributes:
        name: of the signal.
        auroc: the chance that a good step has more of it than a bad one, ties counted half.
        low: lower end of its 95 % interval, problems resampled as wholes.
        high: upper end.
        within: the same chance among steps of like index and length; None where no such pairs are.
    """

    name: str
    auroc: float
    low: float
    high: float
    within: float | None


def auroc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float | None:
    """The area under the ROC curve; None where one side is empty."""
    if not len(good) or not len(bad):
        return None
    statistic = float(mannwhitneyu(good, bad).statistic)
    return statistic / (len(good) * len(bad))


def quality(name: str, steps: Sequence[StepSample], seed: int = 0) -> Quality | None:
    """Judge a signal; None where all steps have the same label."""
    values = np.array([s.signals[name] for s in steps])
    good = np.array([bool(s.good) for s in steps])
    whole = auroc(values[good], values[~good])
    if whole is None:
        return None
    low, high = _interval(values, good, [s.problem for s in steps], seed)
    return Quality(name, whole, low, high, _within(steps, values, good))


def _interval(
    values: NDArray[np.float64], good: NDArray[np.bool_], problems: Sequence[str], seed: int
) -> tuple[float, float]:
    """Bootstrap over problems: steps of one problem are not independent."""
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
    """Comparisons inside strata only: a signal must not win by knowing where a step stands."""
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
