"""Statistics of how well counts follow a law that is known exactly."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch

Counts = Mapping[Any, int]
Law = Mapping[Any, float]
"""The probability of each outcome."""


def chi_square(counts: Counts, law: Law) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; infinite if an impossible outcome occurred.

    Cells expected fewer than five times are merged into one.
    """
    total = sum(counts.values())
    if any(count and law.get(outcome, 0.0) < 1e-12 for outcome, count in counts.items()):
        return math.inf, 1
    statistic, cells = 0.0, 0
    rest_seen, rest_expected = 0, 0.0
    for outcome, probability in law.items():
        expected, seen = total * probability, counts.get(outcome, 0)
        if expected < 5:
            rest_seen, rest_expected = rest_seen + seen, rest_expected + expected
        else:
            statistic += (seen - expected) ** 2 / expected
            cells += 1
    if rest_expected >= 1:
        statistic += (rest_seen - rest_expected) ** 2 / rest_expected
        cells += 1
    return statistic, max(cells - 1, 0)


def p_value(*tables: tuple[Counts, Law]) -> float:
    """The p-value of independent tables of counts, each with its law, taken together."""
    parts = [chi_square(counts, law) for counts, law in tables]
    statistic, freedom = sum(s for s, _ in parts), sum(f for _, f in parts)
    if not freedom:
        return 1.0
    if math.isinf(statistic):
        return 0.0
    # The upper tail of the chi-square distribution.
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def total_variation(counts: Counts, law: Law) -> float:
    """Total variation: half the summed distance of frequencies and probabilities."""
    total = sum(counts.values())
    outcomes: set[Hashable] = set(law) | set(counts)
    return 0.5 * sum(abs(counts.get(o, 0) / total - law.get(o, 0.0)) for o in outcomes)
