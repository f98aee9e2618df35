"""Choosing a threshold by the results of whole runs with each of a few thresholds.

Every threshold is run on-policy: the steps that a policy sees depend on the steps that it accepted,
so results of one threshold cannot be derived from the run of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.stats import binom

from stet.calibration.label_source import ANSWERS, LabelSource
from stet.core.errors import StetError

MOST = 20
"""The largest number of thresholds; the bound on risk is corrected for their number."""

Goal = Literal["accuracy", "speed", "keep", "latency", "risk"]


@dataclass(frozen=True, slots=True)
class ThresholdPoint:
    """The results of a run with a threshold.

    Attributes:
        threshold: the score from which on a step is accepted.
        problems: number of problems.
        right: number of right answers; without right answers, of those that are the target's.
        seconds: mean machine seconds of an answer.
        kept: share of steps in which the draft's was accepted.
        losses: number of problems whose first error is an accepted step of the draft; None where
            that was not measured.
        p_value: p-value of "the risk is above alpha", where a bound was requested.
    """

    threshold: float
    problems: int
    right: int
    seconds: float
    kept: float
    losses: int | None = None
    p_value: float | None = None

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.problems


@dataclass(frozen=True, slots=True)
class Wish:
    """What a threshold is chosen for.

    Attributes:
        goal: "accuracy": the most right answers, among equals the fastest; "speed": the fastest
            that answers at least the share `value` of problems rightly; "keep": the strictest that
            accepts at least the share `value` of steps; "latency": the most accurate within `value`
            seconds; "risk": the one that accepts most steps while the risk is at most `value`.
        value: the bound of the goal, see there.
        delta: the probability that the bound on risk fails, over the draw of the problems.
    """

    goal: Goal
    value: float = 0.0
    delta: float = 0.05


def with_bounds(points: Sequence[ThresholdPoint], alpha: float) -> list[ThresholdPoint]:
    """Add exact binomial p-values of "more than a share alpha of new problems is lost".

    Source: learn-then-test, Angelopoulos et al., arXiv 2110.01052, with 0-1 losses per problem.
    """
    if any(p.losses is None for p in points):
        raise StetError("The losses of a threshold were not measured.")
    p_values = binom.cdf([p.losses for p in points], [p.problems for p in points], alpha)
    return [replace(p, p_value=float(v)) for p, v in zip(points, p_values, strict=True)]


def choose(
    points: Sequence[ThresholdPoint], wish: Wish, label_source: LabelSource = ANSWERS
) -> ThresholdPoint:
    """Choose the threshold for a wish.

    Raises:
        StetError: no threshold fulfils it; the message names the best one's result.
    """
    match wish.goal:
        case "accuracy":
            return max(points, key=lambda p: (p.right / p.problems, -p.seconds))
        case "speed":
            able = [p for p in points if p.accuracy >= wish.value]
            best = max(p.accuracy for p in points)
            able_words = label_source.able.format(f"{wish.value:.1%}")
            refusal = f"{able_words}; the best {best:.1%}"
            return min(_require(able, refusal), key=lambda p: p.seconds)
        case "keep":
            able = [p for p in points if p.kept >= wish.value]
            most = max(p.kept for p in points)
            refusal = f"accepts {wish.value:.1%} of the steps; the most {most:.1%}"
            return max(_require(able, refusal), key=lambda p: p.threshold)
        case "latency":
            able = [p for p in points if p.seconds <= wish.value]
            least = min(p.seconds for p in points)
            refusal = f"takes {wish.value:.3g} s or less; the fastest {least:.3g} s"
            return max(_require(able, refusal), key=lambda p: (p.accuracy, -p.seconds))
        case "risk":
            return _by_risk(points, wish)


def _by_risk(points: Sequence[ThresholdPoint], wish: Wish) -> ThresholdPoint:
    # Bonferroni correction over all thresholds, which were fixed before this data was seen.
    bar = wish.delta / len(points)
    able = [p for p in points if p.p_value is not None and p.p_value <= bar]
    fewest = min((p.losses or 0) / p.problems for p in points)
    refusal = (
        f"has a risk of at most {wish.value:.1%} with confidence {1 - wish.delta:.0%} on "
        f"{points[0].problems} problems; the fewest losses were {fewest:.1%}, so take more "
        "problems or a higher bound"
    )
    return max(_require(able, refusal), key=lambda p: (p.kept, p.threshold))


def _require(able: list[ThresholdPoint], refusal: str) -> list[ThresholdPoint]:
    if not able:
        raise StetError(f"No threshold {refusal}.")
    return able
