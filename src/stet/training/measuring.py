"""Measuring an arbiter on questions that it was not trained on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from stet.arbiter import Arbiter
from stet.core.errors import FileError
from stet.core.parsing import first_problem
from stet.core.reading import read_text
from stet.core.upgrades import upgrade
from stet.executors.base import Executor
from stet.executors.local import executor_of
from stet.policies.arbiter_inference import Above
from stet.policies.reference import PROBABILITY, Decision, Reference
from stet.training.rollout_policy import Rollout, RolloutPolicy, roll_out_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of an arbiter at a threshold.

    Attributes:
        threshold: the probability above which the draft's token is accepted.
        questions: number of questions.
        right: number of right answers.
        tokens_per_pass: emitted tokens per pass of the target.
        mismatches: number of mismatches that were decided.
        accepted_mismatches: number of those at which the draft's token was accepted.
        outcomes: for each question, in their order, "1" where the answer is right, else "0"; empty
            in records of earlier versions.
    """

    threshold: float
    questions: int
    right: int
    tokens_per_pass: float
    mismatches: int
    accepted_mismatches: int
    outcomes: str = ""

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.questions

    def worth(self, cost: float) -> float:
        """Right answers less `cost` for each rejected mismatch, per question."""
        return (self.right - cost * (self.mismatches - self.accepted_mismatches)) / self.questions


def read_measured(path: Path) -> list[Measured]:
    """Read the results that were measured so far, from a file of a training's folder.

    Raises:
        FileError: the file holds no such results.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        found: list[Measured] = TypeAdapter(list[Measured]).validate_python(
            upgrade(json.loads(read_text(path)))
        )
    except ValueError as error:
        problem = first_problem(error, "the file") if isinstance(error, ValidationError) else error
        raise FileError(f"{path}: no measurements of a training ({problem}).") from error
    return found


@dataclass
class Measuring:
    """Answers a task's questions at several thresholds, deterministically.

    An answer at one threshold is the answer at another if each of its decisions is the same there.
    Only the other answers are rolled out again, so that a whole curve costs little more than its
    ends.

    Attributes:
        where: the models, or what has workers with them.
        task: graded questions.
        arbiter: the arbiter that is measured.
        batch: questions at a time.
    """

    where: Pair | Executor
    task: LoadedTask
    arbiter: Arbiter
    batch: int
    _rolled_out: dict[int, list[Rollout]] = field(
        default_factory=dict[int, list[Rollout]], init=False
    )

    def at(self, threshold: float) -> Measured:
        """Measure the arbiter at a threshold."""
        rollouts = self.rollouts(threshold)
        tokens = sum(g.counters.emitted_tokens for g in rollouts)
        passes = sum(g.counters.target_passes for g in rollouts)
        decided = [d.score for g in rollouts for d in g.mismatches]
        return Measured(
            threshold=threshold,
            questions=len(rollouts),
            right=sum(g.right for g in rollouts),
            tokens_per_pass=tokens / max(passes, 1),
            mismatches=len(decided),
            accepted_mismatches=sum(Above(threshold).one(score) for score in decided),
            outcomes="".join("01"[g.right] for g in rollouts),
        )

    def reference(self, threshold: float) -> Reference | None:
        """The decisions at a threshold, which drift is measured from; None without mismatches."""
        answers = [
            [Decision({PROBABILITY: d.score}, Above(threshold).one(d.score)) for d in g.mismatches]
            for g in self.rollouts(threshold)
        ]
        return Reference.of(answers, (PROBABILITY,))

    def rollouts(self, threshold: float) -> list[Rollout]:
        """Roll out the answers at a threshold, in the order of the questions."""
        places = range(len(self.task.questions))
        found = {place: rollout for place in places if (rollout := self._known(place, threshold))}
        missing = [place for place in places if place not in found]
        policy = RolloutPolicy(self.arbiter, threshold)
        executor = executor_of(self.where)
        for rolled_out in roll_out_all(executor, self.task, missing, policy, self.batch):
            self._rolled_out.setdefault(rolled_out.question, []).append(rolled_out)
            found[rolled_out.question] = rolled_out
        return [found[place] for place in places]

    def _known(self, place: int, threshold: float) -> Rollout | None:
        for rollout in self._rolled_out.get(place, ()):
            if all(Above(threshold).one(d.score) == d.accepted for d in rollout.mismatches):
                return rollout
        return None


def choose(curve: Sequence[Measured], within: float, error: float = 0.05) -> Measured:
    """Choose the threshold with most tokens per pass among those that are shown to lose little.

    Args:
        curve: results at each threshold, on the same questions.
        within: the loss of accuracy, against the most accurate threshold, that must be excluded.
        error: the probability of excluding it where it is there, for each threshold.
    """
    best = max(curve, key=lambda m: (m.right, m.tokens_per_pass))
    good = [m for m in curve if m is best or _largest_loss(m, best, error) <= within + 1e-9]
    return max(good, key=lambda m: (m.tokens_per_pass, m.right))


def _largest_loss(measured: Measured, best: Measured, error: float) -> float:
    """The upper bound of the accuracy that is lost, from the questions whose outcomes differ.

    Where outcomes are not known, the loss as it was seen.
    """
    loss = best.accuracy - measured.accuracy
    if not (measured.outcomes and len(measured.outcomes) == len(best.outcomes)):
        return loss
    differing = sum(a != b for a, b in zip(measured.outcomes, best.outcomes, strict=True))
    spread = max(differing / best.questions - loss**2, 0.0)
    quantile = NormalDist().inv_cdf(1 - error)
    return loss + quantile * math.sqrt(spread / best.questions)
