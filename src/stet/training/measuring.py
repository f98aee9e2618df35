"""How good an arbiter is on questions that it was not trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stet.arbiter import Arbiter
from stet.core.files import FileError, read_text
from stet.core.parsing import first_problem
from stet.core.upgrades import upgraded
from stet.policies.arbiter_inference import Above
from stet.training.rollout_policy import Rollout, RolloutPolicy, roll_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Measured:
    """What an arbiter did at a threshold.

    Attributes:
        threshold: the probability above which the draft's token stands.
        questions: how many were answered.
        right: how many of the answers are.
        tokens_per_pass: emitted tokens for each pass of the target.
        mismatches: disagreements that were decided.
        accepted_mismatches: those in which the draft's token stands.
    """

    threshold: float
    questions: int
    right: int
    tokens_per_pass: float
    mismatches: int
    accepted_mismatches: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.questions

    def worth(self, cost: float) -> float:
        """Right answers less what the blocks cost that a target's token ended, per question."""
        return (self.right - cost * (self.mismatches - self.accepted_mismatches)) / self.questions


def read_measured(path: Path) -> list[Measured]:
    """What was measured so far, from a file of a training's folder.

    Raises:
        FileError: it holds something else.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        found: list[Measured] = TypeAdapter(list[Measured]).validate_python(
            upgraded(json.loads(read_text(path)))
        )
    except ValueError as error:
        problem = first_problem(error, "the file") if isinstance(error, ValidationError) else error
        raise FileError(f"{path}: no measurements of a training ({problem}).") from error
    return found


@dataclass
class Measuring:
    """Answers a task's questions at one threshold after another, deterministically.

    An answer at one threshold is the answer at another if each of its decisions comes out the same
    there; only the others are written anew, so that a whole curve costs little more than its ends.

    Attributes:
        pair: the models.
        task: graded questions.
        arbiter: decides.
        batch: questions at a time.
    """

    pair: Pair
    task: LoadedTask
    arbiter: Arbiter
    batch: int
    _rolled_out: dict[int, list[Rollout]] = field(
        default_factory=dict[int, list[Rollout]], init=False
    )

    def at(self, threshold: float) -> Measured:
        """What the arbiter does at this threshold."""
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
        )

    def rollouts(self, threshold: float) -> list[Rollout]:
        """The answers at this threshold, in the order of the questions."""
        places = range(len(self.task.questions))
        found = {place: rollout for place in places if (rollout := self._known(place, threshold))}
        missing = [place for place in places if place not in found]
        policy = RolloutPolicy(self.arbiter, threshold)
        for start in range(0, len(missing), self.batch):
            chunk = missing[start : start + self.batch]
            for rolled_out in roll_out(self.pair, self.task, chunk, policy):
                self._rolled_out.setdefault(rolled_out.question, []).append(rolled_out)
                found[rolled_out.question] = rolled_out
        return [found[place] for place in places]

    def _known(self, place: int, threshold: float) -> Rollout | None:
        for rollout in self._rolled_out.get(place, ()):
            if all(Above(threshold).one(d.score) == d.accepted for d in rollout.mismatches):
                return rollout
        return None


def choose(curve: Sequence[Measured], within: float) -> Measured:
    """Of the thresholds whose accuracy is nearly the best, the one with most tokens per pass.

    Args:
        curve: the thresholds.
        within: accuracy below the best that still counts as nearly the best: differences of a few
            questions are chance, those in speed are not.
    """
    most = max(m.accuracy for m in curve)
    good = [m for m in curve if m.accuracy >= most - within - 1e-9]
    return max(good, key=lambda m: (m.tokens_per_pass, m.right))
