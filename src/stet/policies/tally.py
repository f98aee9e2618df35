"""How values are spread over bins, and how many independent ones they are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Tally:
    """Counts of values by bin, answer by answer; older answers may count ever less.

    Values of one answer are alike, so many of a few answers say less than as many of different
    ones. How much less is seen from how the answers differ (Rao and Scott, "The Analysis of
    Categorical Data from Complex Sample Surveys", JASA 76, 1981: first-order correction), for
    which sums over answers are enough: nothing is kept of a single one.

    Args:
        edges: ascending; bin i has the values above edge i - 1 and up to edge i.
        memory: answers after which one counts 1/e of a new one; None: all count alike.
    """

    def __init__(self, edges: Sequence[float], memory: float | None = None) -> None:
        self._edges = np.asarray(edges, dtype=np.float64)
        self._decay = 1.0 if memory is None else float(np.exp(-1 / memory))
        bins = len(self._edges) + 1
        self.counts: Numbers = np.zeros(bins)
        self._answers = self._answers_squared = 0.0
        # With the squares of the answers' weights: counts squared, counts times an answer's values,
        # the latter squared, and the latter.
        self._squares: Numbers = np.zeros(bins)
        self._products: Numbers = np.zeros(bins)
        self._values_squared = self._values = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Count the values of an answer; those that are no finite numbers are left out."""
        found = np.asarray(values, dtype=np.float64)
        found = found[np.isfinite(found)]
        counts = np.bincount(
            np.searchsorted(self._edges, found, side="left"), minlength=len(self.counts)
        )
        decay, n = self._decay, len(found)
        self.counts = decay * self.counts + counts
        self._answers = decay * self._answers + 1
        decay *= decay
        self._answers_squared = decay * self._answers_squared + 1
        self._squares = decay * self._squares + counts * counts
        self._products = decay * self._products + counts * n
        self._values_squared = decay * self._values_squared + n * n
        self._values = decay * self._values + n

    @property
    def answers(self) -> float:
        """Answers that count, the older ones in part."""
        return self._answers

    @property
    def total(self) -> float:
        """Values that count, those of older answers in part."""
        return float(self.counts.sum())

    @property
    def effective(self) -> float:
        """The number of independent values that would be spread as surely; 0 where unknown."""
        total, alike = self.total, self._answers_squared
        if not total or self._answers**2 <= 1.5 * alike:
            return 0.0  # of a single answer nothing is known
        most = total**2 / self._values
        seen = self.counts > 0
        shares = self.counts[seen] / total
        spread = (
            self._squares[seen]
            - 2 * shares * self._products[seen]
            + shares**2 * self._values_squared
        )
        count = self._answers**2 / alike
        variances = np.maximum(spread, 0.0) / total**2 * count / (count - 1)
        excess = float((variances / shares).sum())
        freedom = int(seen.sum()) - 1
        return min(freedom / excess, most) if freedom and excess > 0 else most
