"""What an arbiter may bring on a pair, told from branches of the target's own answers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stet.evaluation.statistics import Resamples, gain
from stet.training.branches import Branches
from stet.training.fitting import FitSettings, fit

FOLDS = 4
SPEED_ALONE = 0.01
"""Where a gain of so many right answers per question is excluded, speed alone is to be expected."""

_TIES = 1e-3  # weight of ties: here only who is right counts
_BARS = 40  # that are tried
_NEVER = torch.iinfo(torch.int64).max  # the place of a mismatch that is not accepted


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of an arbiter for this pair and task.

    The gain is of accepting one mismatch per answer at most: the first at which an arbiter that was
    fitted to other questions is sure enough. Outcomes of that are known from the branches, so that
    nothing has to be run. An arbiter that accepts more of them may gain more. Where only some of an
    answer's mismatches were branched, the others count as not accepted.

    Attributes:
        questions: number of questions with a mismatch.
        mismatches: number of mismatches.
        draft_only: share of mismatches at which only the draft's token leads to the right answer.
        target_only: share at which only the target's does.
        saved: share of questions that some single accepted mismatch would have saved.
        gain: right answers per question that are won, less those that are lost.
        low: lower end of the 95 % interval of the gain.
        high: upper end of it.
    """

    questions: int
    mismatches: int
    draft_only: float
    target_only: float
    saved: float
    gain: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """The outlook in words."""
        seen = (
            f"Only the draft's token leads to the right answer at {self.draft_only:.1%} of the "
            f"mismatches, only the target's at {self.target_only:.1%}; one accepted mismatch would "
            f"have saved {self.saved:.1%} of the questions."
        )
        points = f"{100 * self.low:+.1f} to {100 * self.high:+.1f} points"
        if self.low > 0:
            return (
                f"{seen} What is known at a mismatch tells which: expect more right answers than "
                f"the target alone gives, by {100 * self.gain:.1f} points with one accepted "
                f"mismatch per answer ({points})."
            )
        if self.high < SPEED_ALONE:
            return (
                f"{seen} What is known at a mismatch does not tell which ({points}): expect speed, "
                "not accuracy."
            )
        return (
            f"{seen} Whether what is known at a mismatch tells which cannot be said from "
            f"{self.questions} questions ({points}): expect speed, and take more questions."
        )


def outlook(branches: Branches, seed: int = 0) -> Outlook | None:
    """Compute the outlook from branches of the target's own answers; None from too few questions.

    Args:
        branches: of rollouts in which no mismatch was accepted, as a training's first sweep has.
        seed: of the division into folds.
    """
    questions = sorted(set(branches.question.tolist()))
    if len(questions) < 2 * FOLDS:
        return None
    random.Random(seed).shuffle(questions)
    fold_of = {question: place % FOLDS for place, question in enumerate(questions)}
    fold = torch.tensor([fold_of[question] for question in branches.question.tolist()])
    changes: list[Tensor] = []
    for held in range(FOLDS):
        stopping = (held + 1) % FOLDS
        network = fit(
            branches.where((fold != held) & (fold != stopping)),
            branches.where(fold == stopping),
            FitSettings(cost=_TIES, seed=seed),
        )
        with torch.no_grad():
            scores = network(branches.features)
        bar = _best_bar(branches.where(fold != held), scores[fold != held])
        changes.append(_changes(branches.where(fold == held), scores[fold == held], bar))
    draft_only = branches.with_draft & ~branches.with_target
    change = torch.cat(changes)
    found = gain(change > 0, change < 0, torch.ones_like(change), Resamples())
    return Outlook(
        questions=len(questions),
        mismatches=len(branches),
        draft_only=float(draft_only.float().mean()),
        target_only=float((branches.with_target & ~branches.with_draft).float().mean()),
        saved=len(set(branches.question[draft_only].tolist())) / len(questions),
        gain=found.value,
        low=found.value if found.low is None else found.low,
        high=found.value if found.high is None else found.high,
    )


def _changes(branches: Branches, scores: Tensor, bar: float) -> Tensor:
    """For each question what its first mismatch above the bar changes: 1 won, -1 lost, else 0."""
    questions, owner = branches.question.unique(return_inverse=True)
    places = branches.place.masked_fill(scores <= bar, _NEVER)
    first = torch.full_like(questions, _NEVER).scatter_reduce(0, owner, places, "amin")
    accepted = (places < _NEVER) & (places == first[owner])
    change = branches.with_draft.long() - branches.with_target.long()
    return torch.zeros_like(questions).index_add(0, owner[accepted], change[accepted])


def _best_bar(branches: Branches, scores: Tensor) -> float:
    """The bar with most right answers; infinity where nothing is better than accepting nothing."""
    quantiles = np.quantile(scores.numpy(), np.linspace(0.0, 1.0, _BARS))
    bars: list[float] = [math.inf, *map(float, quantiles)]
    return max(bars, key=lambda bar: (int(_changes(branches, scores, bar).sum()), bar))
