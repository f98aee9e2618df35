"""How good an arbiter is on questions that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.arbiter import Arbiter
from stet.training.playing import Playing, play

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

    @property
    def key(self) -> tuple[int, float]:
        """What makes one better than another: right answers, then tokens per pass."""
        return self.right, self.tokens_per_pass


def measure(
    pair: Pair, task: LoadedTask, arbiter: Arbiter, threshold: float, batch: int
) -> Measured:
    """Answer all questions of a task, deterministically."""
    policy = Playing(arbiter, threshold)
    right = tokens = passes = disputes = overruled = 0
    places = range(len(task.questions))
    for start in range(0, len(places), batch):
        for game in play(pair, task, places[start : start + batch], policy):
            right += game.right
            tokens += game.counters.emitted_tokens
            passes += game.counters.target_passes
            disputes += len(game.disputes)
            overruled += sum(d.stands for d in game.disputes)
    return Measured(threshold, len(places), right, tokens / max(passes, 1), disputes, overruled)


def best(curve: Sequence[Measured]) -> Measured:
    """The one with most right answers; of equals the fastest."""
    return max(curve, key=lambda m: m.key)
