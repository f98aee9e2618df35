"""Ratios of speeds over the same prompts, with their spread and an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one contender is as another.

    Attributes:
        value: the median of its speeds by the median of the other's.
        low: lower end of the 95 % interval of `value`, bootstrapped over prompts.
        high: upper end.
        q1: lower quartile of the ratios of single prompts.
        q3: upper quartile.
        prompts: how many prompts both have answered.
    """

    value: float
    low: float
    high: float
    q1: float
    q3: float
    prompts: int

    def plain(self) -> dict[str, Any]:
        """As a result file holds it."""
        return {k: round(v, 4) if k != "prompts" else v for k, v in asdict(self).items()}


def ratio(fast: Sequence[float], slow: Sequence[float], seed: int = 0) -> Ratio:
    """Compare two contenders' speeds.

    A prompt is drawn with both its speeds, since some prompts are faster than others for everybody.

    Args:
        fast: tokens per second of the first, by prompt.
        slow: of the second, for the same prompts in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no prompt, or not the same number on both sides.
    """
    if len(fast) != len(slow) or not fast:
        raise ValueError(f"{len(fast)} and {len(slow)} speeds make no pairs.")
    above, below = np.asarray(fast, float), np.asarray(slow, float)
    drawn = np.random.default_rng(seed).integers(len(above), size=(DRAWS, len(above)))
    ratios = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    q1, q3 = np.quantile(above / below, [0.25, 0.75])
    value = np.median(above) / np.median(below)
    return Ratio(float(value), float(low), float(high), float(q1), float(q3), len(above))


def rate(record: dict[str, Any]) -> float:
    """Tokens per second of an answer, its prompt included."""
    return len(record["tokens"]) / float(record["seconds"])


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def agrees(answer: Sequence[int], reference: Sequence[int]) -> bool:
    """Whether an answer is the reference's text, as far as the shorter one of both goes.

    A reference may have been written to a higher limit. An answer that ends where the reference
    goes on is not cut by a limit of its own, so the harness compares answers to one limit only.
    """
    return common_prefix(answer, reference) == min(len(answer), len(reference))
