"""The statistics of a report, as functions of arrays: estimates with intervals, tests, power.

Standard statistics come from scipy and statsmodels. `docs/statistics.md` explains their use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stet.core.errors import StetError
from stet.evaluation.summary import Estimate

try:
    from scipy.optimize import brentq
    from scipy.stats import binom, mannwhitneyu, norm, t
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
except ImportError as error:  # pragma: no cover
    raise StetError(
        "Comparing policies needs scipy and statsmodels: pip install 'stet-decoding[compare]'."
    ) from error

ALPHA = 0.05
"""Significance level of all tests; intervals cover 1 - ALPHA."""

POWER = 0.8
"""Power with which a detectable difference is found."""

FEWEST = 5
"""The fewest questions (or chunks) for a bootstrap interval."""

_AT_ONCE = 1 << 20  # drawn units in memory at a time

Floats = NDArray[np.float64]


def divide(numerator: float, denominator: float) -> float:
    """The quotient; nan for a denominator of 0."""
    return numerator / denominator if denominator else math.nan


def share(successes: ArrayLike, answers: ArrayLike) -> Estimate:
    """The share of successes, with Wilson's interval for clustered answers.

    The answers to one question (with several seeds) are correlated, so they say less than as many
    answers to different questions. Their effective number follows from the cluster-robust variance
    of the share, and replaces the number of answers in Wilson's interval. With one answer per
    question the two are equal. A bootstrap interval would have no length where all answers are
    right; this one has.

    Source: Franco, Little, Louis and Slud, "Comparative study of confidence intervals for
    proportions in complex sample surveys", J. Survey Statistics and Methodology 7 (2019) 334-364.

    Args:
        successes: per question, the number of answers that are a success.
        answers: per question, the number of answers.
    """
    x, n = np.asarray(successes, float), np.asarray(answers, float)
    x, n = x[n > 0], n[n > 0]
    total = float(n.sum())
    if not total:
        return Estimate(math.nan)
    value = float(x.sum()) / total
    variance = float(np.square(x - value * n).sum()) / total**2
    # Without variance the correlation is unknown, so each question counts once.
    effective = value * (1 - value) / variance if variance else float(len(n))
    effective = min(effective, total)
    low, high = proportion_confint(value * effective, effective, alpha=ALPHA, method="wilson")
    return Estimate(value, max(float(low), 0.0), min(float(high), 1.0))


class Resamples:
    """Bootstrap resamples of units (questions or chunks), the same for everything measured on them.

    Args:
        count: number of resamples.
        seed: seed; the same seed gives the same resamples.
    """

    def __init__(self, count: int = 10_000, seed: int = 0) -> None:
        if count < 1:
            raise StetError(f"The bootstrap needs at least one resample, not {count}.")
        self.count = count
        self.seed = seed
        self._draws: dict[int, NDArray[np.uint16]] = {}

    def draws(self, units: int) -> NDArray[np.uint16]:
        """The number of times each resample has each unit, of shape (count, units)."""
        if units not in self._draws:
            if len(self._draws) == 4:
                self._draws.clear()
            self._draws[units] = self._draw(units)
        return self._draws[units]

    def _draw(self, units: int) -> NDArray[np.uint16]:
        generator = np.random.default_rng([self.seed, units])
        draws = np.empty((self.count, units), np.uint16)
        rows = max(_AT_ONCE // units, 1)
        for start in range(0, self.count, rows):
            block = draws[start : start + rows]
            picked = generator.integers(units, size=block.shape)
            picked += np.arange(len(block))[:, None] * units
            block[:] = np.bincount(picked.ravel(), minlength=block.size).reshape(block.shape)
        return draws

    def sums(self, columns: Floats) -> Floats:
        """The sums of columns, of shape (units, k), over each resample: (count, k)."""
        draws = self.draws(len(columns))
        rows = max(_AT_ONCE // len(columns), 1)
        parts = [
            draws[start : start + rows].astype(np.float64) @ columns
            for start in range(0, self.count, rows)
        ]
        return np.concatenate(parts)


def ratio(numerators: ArrayLike, denominators: ArrayLike, resamples: Resamples) -> Estimate:
    """A ratio of sums over resampled units, with its bootstrap interval.

    The interval is the percentile interval, widened for few units by Hesterberg's adjustment,
    without which it is too short: with ten units it covers about 90 % in place of 95 %.

    Source: Hesterberg, "What teachers should know about the bootstrap", The American Statistician
    69 (2015) 371-386, section 4.2 (expanded percentile interval).

    Args:
        numerators: the numerator of each unit.
        denominators: the denominator of each unit.
        resamples: resamples of the units.

    Returns:
        The ratio, nan where the denominators sum to 0; its interval is None below `FEWEST` units,
        and where the denominators of a resample sum to 0.
    """
    columns = np.column_stack([np.asarray(numerators, float), np.asarray(denominators, float)])
    above, below = columns.sum(axis=0)
    value = divide(float(above), float(below))
    units = len(columns)
    if units < FEWEST or math.isnan(value):
        return Estimate(value)
    sums = resamples.sums(columns)
    if not sums[:, 1].all():
        return Estimate(value)
    tail = norm.sf(math.sqrt(units / (units - 1)) * t.ppf(1 - ALPHA / 2, units - 1))
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def gain(gained: ArrayLike, lost: ArrayLike, answers: ArrayLike, resamples: Resamples) -> Estimate:
    """The difference of two accuracies on the same questions, clustered by question.

    Where no grade differs a bootstrap has nothing to vary. The difference can then be no larger
    than the share of answers whose grades differ, and the interval extends to that share's upper
    limit on both sides.

    Args:
        gained: per question, the number of answers that are right where the reference's is wrong.
        lost: per question, the number of answers that are wrong where the reference's is right.
        answers: per question, the number of pairs of answers.
        resamples: resamples of the questions.
    """
    gained, lost = np.asarray(gained, float), np.asarray(lost, float)
    n = np.asarray(answers, float)
    gained, lost, n = gained[n > 0], lost[n > 0], n[n > 0]
    if len(n) >= FEWEST and not (gained + lost).any():
        most = share(gained, n).high
        return Estimate(0.0, None if most is None else -most, most)
    return ratio(gained - lost, n, resamples)


def mcnemar_p(gained: int, lost: int) -> float:
    """The p-value of McNemar's exact test of whether as many answers were gained as lost.

    Args:
        gained: pairs in which only the policy is right.
        lost: pairs in which only the reference is right.
    """
    result = mcnemar([[0, gained], [lost, 0]], exact=True)
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's correction, in the order given."""
    if not p_values:
        return []
    adjusted: Any = multipletests(list(p_values), alpha=ALPHA, method="holm")[1]
    return [float(p) for p in adjusted]


def mcnemar_power(difference: float, discordance: float, questions: int) -> float:
    """The power of McNemar's exact test at `ALPHA`.

    The number of questions whose grades differ is binomial; given it, so is the number gained.

    Source: Duffy, "Asymptotic and exact power for the McNemar test and its analogue with R controls
    per case", Biometrics 40 (1984) 1005-1015; Miettinen, "The matched pairs design in the case of
    all-or-none responses", Biometrics 24 (1968) 339-352.

    Args:
        difference: difference of the accuracies, from 0 to `discordance`.
        discordance: probability that the grades of a question differ.
        questions: number of questions.
    """
    differing = np.arange(questions + 1)
    # The test rejects where the rarer outcome has at most `limit` questions.
    limit = binom.ppf(ALPHA / 2, differing, 0.5)
    limit -= binom.cdf(limit, differing, 0.5) > ALPHA / 2
    gained = (discordance + difference) / (2 * discordance)
    power = binom.cdf(limit, differing, gained) + binom.sf(differing - limit - 1, differing, gained)
    return float(binom.pmf(differing, questions, discordance) @ power)


def detectable(discordance: float, questions: int) -> float | None:
    """The smallest difference of accuracies found with a power of `POWER` by McNemar's exact test.

    A difference cannot exceed the share of questions whose grades differ: where a difference above
    the discordance is needed, the discordance is assumed to equal it, all of it in one direction.

    Args:
        discordance: share of questions whose grades differ.
        questions: number of questions.

    Returns:
        The difference; None where nothing differs, and where there are too few questions for any.
    """

    def lacking(difference: float) -> float:
        return mcnemar_power(difference, max(difference, discordance), questions) - POWER

    if not discordance or lacking(1.0) < 0:
        return None
    return float(brentq(lacking, 0.0, 1.0, xtol=1e-6))


def separation(right: ArrayLike, wrong: ArrayLike) -> float | None:
    """The probability that a right answer has the larger value (AUC); None without both kinds."""
    right, wrong = np.asarray(right, float), np.asarray(wrong, float)
    if not (right.size and wrong.size):
        return None
    return float(mannwhitneyu(right, wrong).statistic) / (right.size * wrong.size)
