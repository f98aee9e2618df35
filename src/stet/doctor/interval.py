"""The interval of a forecast: what another set of prompts, measured later, may come to."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

RESAMPLES = 200

DRIFT = 0.03
"""Standard deviation, as a share, by which the ratio of two speeds differs between two runs of the
same: what else the machine does, and where memory happens to lie."""

DISTURBED = 0.12
"""The same where other work held the machine's cores meanwhile."""

_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)
"""The 97.5 % points of Student's distribution with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of a number."""

    low: float
    high: float


def interval_of(
    value: float,
    batches: int,
    recompute: Callable[[Sequence[int]], float],
    *,
    disturbed: bool = False,
) -> Interval | None:
    """Compute the interval of a speed-up for another set of as many prompts, of 95 %.

    The batches of prompts are resampled, whole, so that their acceptance and what their passes cost
    vary together. The other set varies as much as this one. Of few batches the variance is known
    badly, so Student's distribution takes the normal one's place. All on the scale of logarithms.

    Args:
        value: the speed-up.
        batches: how many batches of prompts were measured.
        recompute: computes the speed-up from batches, given by number.
        disturbed: whether other work held the machine's cores meanwhile.

    Returns:
        The interval; None for a single batch, whose variance nothing tells.
    """
    if batches < 2:
        return None
    generator = random.Random(0)
    logs = [
        math.log(recompute(generator.choices(range(batches), k=batches))) for _ in range(RESAMPLES)
    ]
    # A resampled mean varies less than a mean by a factor of (n - 1) / n, in variance.
    variance = pstdev(logs, fmean(logs)) ** 2 * batches / (batches - 1)
    freedom = min(batches - 1, len(_STUDENT))
    drift = DISTURBED if disturbed else DRIFT
    width = math.hypot(_STUDENT[freedom - 1] * math.sqrt(2 * variance), 2 * drift)
    return Interval(value * math.exp(-width), value * math.exp(width))
