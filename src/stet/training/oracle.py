"""What could be gained at all: overruling the target where it helps, found by trying.

For analysis only: it looks at the right answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.arbiter import Arbiter
from stet.training.playing import Game, Playing, play

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

NEVER = 1.0


@dataclass(frozen=True, slots=True)
class Saved:
    """What it takes to get a question right.

    Attributes:
        question: its place in the task.
        overrules: places in the answer at which the draft's token has to stand; none where the
            target alone is right; None where the search found nothing.
        tried: answers that were finished in the search.
    """

    question: int
    overrules: tuple[int, ...] | None
    tried: int


@dataclass(frozen=True, slots=True)
class _Node:
    """An answer with some overrules, and how much the draft was surer at them than the target."""

    game: Game
    overrules: tuple[int, ...]
    promise: float


@dataclass(frozen=True)
class Oracle:
    """A beam search over overrules; the target, by itself, finishes every branch.

    Attributes:
        pair: the models.
        task: graded questions.
        arbiter: is never asked; its features must begin with `target_target` and `draft_draft`,
            by which branches are ranked where the beam is narrower than they are many.
        depth: overrules of an answer, at most.
        width: of the beam: answers that are branched further, of each question.
        batch: answers at a time.
    """

    pair: Pair
    task: LoadedTask
    arbiter: Arbiter
    depth: int = 3
    width: int = 4
    batch: int = 16

    def search(
        self, questions: Sequence[int], on_batch: Callable[[int], None] | None = None
    ) -> list[Saved]:
        """What each question takes."""
        found: list[Saved] = []
        for start in range(0, len(questions), self.batch):
            chunk = questions[start : start + self.batch]
            for game in play(self.pair, self.task, chunk, self._target):
                found.append(self._saved(game))
            if on_batch is not None:
                on_batch(start + len(chunk))
        return found

    @property
    def _target(self) -> Playing:
        return Playing(self.arbiter, NEVER)

    def _saved(self, game: Game) -> Saved:
        if game.right:
            return Saved(game.question, (), 0)
        beam, tried = [_Node(game, (), 0.0)], 0
        for _ in range(self.depth):
            nodes = [child for node in beam for child in self._children(node)]
            nodes.sort(key=lambda node: -node.promise)
            finished: list[_Node] = []
            for start in range(0, len(nodes), self.batch):
                finished += self._finished(nodes[start : start + self.batch])
            tried += len(finished)
            for node in finished:
                if node.game.right:
                    return Saved(game.question, node.overrules, tried)
            beam = finished[: self.width]
        return Saved(game.question, None, tried)

    def _children(self, node: _Node) -> list[_Node]:
        """The answer up to each of its later disagreements, with the draft's token."""
        game, children = node.game, []
        for at, dispute in zip(game.places, game.disputes, strict=True):
            target, draft = dispute.features[:2]
            begun = Game(
                game.question,
                False,
                game.prompt,
                (*game.tokens[:at], dispute.draft),
                (),
                (),
                game.counters,
            )
            children.append(_Node(begun, (*node.overrules, at), node.promise + draft - target))
        return children

    def _finished(self, nodes: Sequence[_Node]) -> list[_Node]:
        """The same, written to their ends."""
        ends = self.pair.end_tokens
        room = self.pair.max_length
        open_ones = [
            n
            for n in nodes
            if n.game.tokens[-1] not in ends and len(n.game.prompt) + len(n.game.tokens) < room
        ]
        games = play(
            self.pair,
            self.task,
            [n.game.question for n in open_ones],
            self._target,
            written=[n.game.tokens for n in open_ones],
        )
        return [
            _Node(game, node.overrules, node.promise)
            for game, node in zip(games, open_ones, strict=True)
        ]
