"""Choosing a threshold from what whole runs with each of a few thresholds showed.

Every threshold is run on-policy: which steps a policy sees depends on the steps that it kept, so
nothing about one threshold can be read off the run of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.stats import binom

from stet.calibration.label_source import ANSWERS, LabelSource
from stet.core.errors import StetError

MOST = 20
"""Thresholds tried at most; the bound on risk is corrected for their number."""

Goal = Literal["accuracy", "speed", "keep", "latency", "risk"]


@dataclass(frozen=True, slots=True)
class ThresholdPoint:
    """A threshold and what its run showed.

    Attributes:
        threshold: the score from which on a step stands.
        problems: in the run.
        right: of them answered rightly; without right answers, as the target does.
        seconds: mean machine seconds of an answer.
        kept: share of steps that the draft wrote.
        losses: problems whose first error is a step of the draft that was kept; None where that
            was not looked at.
        p_value: of "the risk is above alpha", where a bound was asked for.
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
        """Share of right answers."""
        return self.right / self.problems


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for.

    Attributes:
        goal: "accuracy": the most right answers, of equals the fastest; "speed": the fastest that
            answers at least `value` of the problems rightly; "keep": the strictest that keeps at
            least the share `value` of steps; "latency": the most accurate within `value` seconds;
            "risk": the one that keeps most while the risk is at most `value`.
        value: see there.
        delta: the chance that the bound on risk fails, over the draw of the problems.
    """

    goal: Goal
    value: float = 0.0
    delta: float = 0.05


def with_bounds(points: Sequence[ThresholdPoint], alpha: float) -> list[ThresholdPoint]:
    """Exact binomial p-values of "more than a share alpha of new problems is lost".

    Source: learn-then-test, Angelopoulos et al., arXiv 2110.01052, with 0-1 losses per problem.
    """
    if any(p.losses is None for p in points):
        raise StetError("The losses of a threshold were not looked at.")
    p_values = binom.cdf([p.losses for p in points], [p.problems for p in points], alpha)
    return [replace(p, p_value=float(v)) for p, v in zip(points, p_values, strict=True)]


def choose(
    points: Sequence[ThresholdPoint], wish: Wish, label_source: LabelSource = ANSWERS
) -> ThresholdPoint:
    """The threshold that the wish asks for.

    Raises:
        StetError: none does what was asked for; the sentence says what the best does.
    """
    match wish.goal:
        case "accuracy":
            return max(points, key=lambda p: (p.right / p.problems, -p.seconds))
        case "speed":
            able = [p for p in points if p.accuracy >= wish.value]
            best = max(p.accuracy for p in points)
            able_words = label_source.able.format(f"{wish.value:.1%}")
            refusal = f"{able_words}; the best {best:.1%}"
            return min(_some(able, refusal), key=lambda p: p.seconds)
        case "keep":
            able = [p for p in points if p.kept >= wish.value]
            most = max(p.kept for p in points)
            refusal = f"keeps {wish.value:.1%} of the steps; the most {most:.1%}"
            return max(_some(able, refusal), key=lambda p: p.threshold)
        case "latency":
            able = [p for p in points if p.seconds <= wish.value]
            least = min(p.seconds for p in points)
            refusal = f"takes {wish.value:.3g} s or less; the fastest {least:.3g} s"
            return max(_some(able, refusal), key=lambda p: (p.accuracy, -p.seconds))
        case "risk":
            return _by_risk(points, wish)


def _by_risk(points: Sequence[ThresholdPoint], wish: Wish) -> ThresholdPoint:
    # Bonferroni over all thresholds that were tried: they were fixed before this data was seen.
    bar = wish.delta / len(points)
    able = [p for p in points if p.p_value is not None and p.p_value <= bar]
    fewest = min((p.losses or 0) / p.problems for p in points)
    refusal = (
        f"has a risk of at most {wish.value:.1%} with confidence {1 - wish.delta:.0%} on "
        f"{points[0].problems} problems; the fewest losses were {fewest:.1%}, so take more "
        "problems or a higher bound"
    )
    return max(_some(able, refusal), key=lambda p: (p.kept, p.threshold))


def _some(able: list[ThresholdPoint], refusal: str) -> list[ThresholdPoint]:
    if not able:
        raise StetError(f"No threshold {refusal}.")
    return able
