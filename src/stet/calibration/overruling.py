"""Whether a rejected step of the draft may stand in the target's place, and from where on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from stet.calibration.quality import auroc
from stet.calibration.samples import StepSample
from stet.policies.specguard import PREFERENCE

LEVEL = 0.05
"""Overruling is allowed where its gain on problems it was not fitted to has a p-value below."""

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Overruling:
    """What labelled steps say of letting the draft's rejected step stand.

    A *decisive* step is one after which the right answer is reached and after the target's own step
    is not (it *saves* the answer), or the reverse (it *misleads*).

    Attributes:
        margin: the preference, in nats, from which on the draft's step stands; None: never.
        saving: number of decisive steps that save the answer.
        misleading: number of those that mislead.
        auroc: probability that a saving step is preferred more than a misleading one; None where
            there are none of a kind.
        saved: saving steps that would stand by a margin fitted to other problems.
        misled: misleading steps that would.
        p_value: p-value of "on as many problems more would be misled than saved" (sign test).
    """

    margin: float | None
    saving: int
    misleading: int
    auroc: float | None
    saved: int
    misled: int
    p_value: float


def fit_overruling(steps: Sequence[StepSample], seed: int = 0) -> Overruling:
    """Fit the margin from which on most more decisive steps save than mislead.

    Overruling is allowed only where margins that are fitted to other problems would save clearly
    more problems than they mislead.

    Args:
        steps: labelled steps; those that were not compared are passed over.
        seed: seed of the division of the problems.
    """
    decisive = [s for s in steps if PREFERENCE in s.signals and (s.saves or not s.good)]
    values = np.array([s.signals[PREFERENCE] for s in decisive])
    saves = np.array([s.saves for s in decisive], dtype=bool)
    stands = _standing(decisive, seed)
    net: Counter[str] = Counter()
    for step, stood in zip(decisive, stands, strict=True):
        net[step.problem] += (1 if step.saves else -1) if stood else 0
    gained, lost = sum(n > 0 for n in net.values()), sum(n < 0 for n in net.values())
    # One-sided: only a gain allows anything.
    p_value = 1.0
    if gained + lost:
        p_value = float(binomtest(gained, gained + lost, alternative="greater").pvalue)
    return Overruling(
        margin=_margin(decisive) if p_value < LEVEL else None,
        saving=int(saves.sum()),
        misleading=int((~saves).sum()),
        auroc=auroc(values[saves], values[~saves]),
        saved=sum(s.saves for s, stood in zip(decisive, stands, strict=True) if stood),
        misled=sum(not s.saves for s, stood in zip(decisive, stands, strict=True) if stood),
        p_value=p_value,
    )


def _standing(steps: Sequence[StepSample], seed: int) -> list[bool]:
    """Whether each step would stand by a margin that was fitted to other problems."""
    problems = sorted({s.problem for s in steps})
    random.Random(seed).shuffle(problems)
    fold_of = {problem: place % FOLDS for place, problem in enumerate(problems)}
    margins = [_margin([s for s in steps if fold_of[s.problem] != fold]) for fold in range(FOLDS)]
    found: list[bool] = []
    for step in steps:
        margin = margins[fold_of[step.problem]]
        found.append(margin is not None and step.signals[PREFERENCE] >= margin)
    return found


def _margin(steps: Sequence[StepSample]) -> float | None:
    """The margin by which saving steps that stand outnumber misleading ones most; None: by none.

    Halfway to the next step that is preferred less; of equally good margins the middle one.
    """
    ordered = sorted(steps, key=lambda s: -s.signals[PREFERENCE])
    values = [s.signals[PREFERENCE] for s in ordered]
    # At each place: the balance where all steps up to there stand.
    balance = np.cumsum([1 if s.saves else -1 for s in ordered])
    # Steps of one value stand or fall together.
    last = [i for i, v in enumerate(values) if i + 1 == len(values) or values[i + 1] < v]
    most = max((balance[i] for i in last), default=0)
    if most <= 0:
        return None
    best = [i for i in last if balance[i] == most]
    place = best[len(best) // 2]
    below = values[place + 1] if place + 1 < len(values) else values[place]
    return round((values[place] + below) / 2, 3)
