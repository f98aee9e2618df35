"""How good an arbiter is on questions that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stet.arbiter import Arbiter
from stet.core.files import FileError, read_text
from stet.core.parsing import first_problem
from stet.policies.weighing import Above
from stet.training.playing import Game, Playing, play

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
        disputes: disagreements that were decided.
        overruled: those in which the draft's token stands.
    """

    threshold: float
    questions: int
    right: int
    tokens_per_pass: float
    disputes: int
    overruled: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.questions

    def worth(self, cost: float) -> float:
        """Right answers less what the blocks cost that a target's token ended, per question."""
        return (self.right - cost * (self.disputes - self.overruled)) / self.questions


def read_measured(path: Path) -> list[Measured]:
    """What was measured so far, from a file of a training's folder.

    Raises:
        FileError: it holds something else.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        found: list[Measured] = TypeAdapter(list[Measured]).validate_json(read_text(path))
    except ValidationError as error:
        problem = first_problem(error, "the file")
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
    _played: dict[int, list[Game]] = field(default_factory=dict[int, list["Game"]], init=False)

    def at(self, threshold: float) -> Measured:
        """What the arbiter does at this threshold."""
        games = self.games(threshold)
        tokens = sum(g.counters.emitted_tokens for g in games)
        passes = sum(g.counters.target_passes for g in games)
        decided = [d.score for g in games for d in g.disputes]
        return Measured(
            threshold=threshold,
            questions=len(games),
            right=sum(g.right for g in games),
            tokens_per_pass=tokens / max(passes, 1),
            disputes=len(decided),
            overruled=sum(Above(threshold).one(score) for score in decided),
        )

    def games(self, threshold: float) -> list[Game]:
        """The answers at this threshold, in the order of the questions."""
        places = range(len(self.task.questions))
        found = {place: game for place in places if (game := self._known(place, threshold))}
        missing = [place for place in places if place not in found]
        policy = Playing(self.arbiter, threshold)
        for start in range(0, len(missing), self.batch):
            chunk = missing[start : start + self.batch]
            for played in play(self.pair, self.task, chunk, policy):
                self._played.setdefault(played.question, []).append(played)
                found[played.question] = played
        return [found[place] for place in places]

    def _known(self, place: int, threshold: float) -> Game | None:
        for game in self._played.get(place, ()):
            if all(Above(threshold).one(d.score) == d.stands for d in game.disputes):
                return game
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
