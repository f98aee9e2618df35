"""What the two halves of a round take where several requests share it, learnt from the rounds.

Timing such passes by themselves would keep everybody waiting, for seconds with a large model, and
would leave out what a round does for each request beside them. So both halves are timed as they
run. What was not run lately is tried now and then: no draft, or the best length of a draft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from stet.engine.costs import Costs

NEWEST = 0.3
"""Weight of the newest round in an average."""

OUTLIER = 1.5
"""A round that took longer than this, as a multiple of the average, counts as that much."""

TRIAL = 48
"""Rounds after which what was not chosen meanwhile is tried; doubled while it loses."""

LONGEST_TRIAL = 768


@dataclass(slots=True)
class Point:
    """Averages of rounds of about one size."""

    size: float
    seconds: float

    def add(self, size: int, seconds: float) -> None:
        """Add a round."""
        self.size += NEWEST * (size - self.size)
        self.seconds += NEWEST * (min(seconds, OUTLIER * self.seconds) - self.seconds)


@dataclass(slots=True)
class RoundTimes:
    """Averages of both halves of rounds, by their size.

    Attributes:
        plain: rounds since nothing was drafted.
        drafted: rounds since anything was drafted.
        trial: rounds without a draft after which one is tried.
    """

    plain: int = TRIAL
    drafted: int = TRIAL
    trial: int = TRIAL
    _scores: dict[int, Point] = field(default_factory=dict[int, Point])
    _drafts: dict[int, Point] = field(default_factory=dict[int, Point])

    def add_draft(self, lengths: Sequence[int], seconds: float) -> None:
        """Add the drafting half of a round.

        Args:
            lengths: of the blocks that were drafted.
            seconds: of all passes of the draft.
        """
        steps = max(lengths, default=0)
        if steps:
            # A sequence whose block is done has no part in the passes for the others.
            _add(self._drafts, round(sum(lengths) / steps), seconds / steps)

    def add_score(self, tokens: int, seconds: float, *, drafted: bool | None) -> None:
        """Add the scoring half of a round.

        Args:
            tokens: in the target's pass.
            seconds: of the pass and of all that was decided.
            drafted: whether there was a draft among them that there need not have been; None where
                none could be left out.
        """
        _add(self._scores, tokens, seconds)
        if drafted is None:
            return
        self.plain = self.plain + 1 if drafted else 0
        self.drafted = 0 if drafted else self.drafted + 1

    def corrected(self, costs: Costs) -> Costs:
        """The costs of passes as rounds show them, and as they were measured where none does."""
        return Costs(
            draft=_corrected(costs.draft, self._drafts) if costs.draft else {},
            target=_corrected(costs.target, self._scores),
        )


def _add(points: dict[int, Point], size: int, seconds: float) -> None:
    place = round(2 * math.log2(size))
    if place in points:
        points[place].add(size, seconds)
    else:
        points[place] = Point(size, seconds)


def _corrected(measured: dict[int, float], points: dict[int, Point]) -> dict[int, float]:
    """Seconds by size: those of rounds, and measured ones by the factor of the nearest round."""
    if not points:
        return measured
    known = Costs({}, measured)
    seen = {max(round(point.size), 1): point.seconds for point in points.values()}
    factors = {size: seconds / known.target_pass(size) for size, seconds in seen.items()}

    def nearest(size: int) -> int:
        return min(seen, key=lambda other: abs(math.log(other / size)))

    scaled = {size: seconds * factors[nearest(size)] for size, seconds in measured.items()}
    return dict(sorted((scaled | seen).items()))
