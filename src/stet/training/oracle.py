"""An upper bound: accepting exactly the mismatches that help, found by search.

For analysis only: it uses the right answers. Whoever may try several answers gets more of them
right, whatever the other answers are; so the same search over other tokens of the target, at the
same places, says how much of the bound is the search's own (`TargetsOthers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stet.arbiter import Arbiter
from stet.requests.seeds import mixed
from stet.training.rollout_policy import Rollout, RolloutPolicy, roll_out

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

NEVER = 1.0


@dataclass(frozen=True, slots=True)
class Saved:
    """The mismatches that have to be accepted for a right answer to a question.

    Attributes:
        question: index of the question in the task.
        accepted_mismatches: positions in the answer at which the draft's token has to be accepted;
            none where the target alone is right; None where the search found no right answer.
        tried: number of answers that were finished in the search.
    """

    question: int
    accepted_mismatches: tuple[int, ...] | None
    tried: int


@dataclass(frozen=True, slots=True)
class _Node:
    """An answer with accepted mismatches, and by how much the draft was more confident there."""

    rollout: Rollout
    accepted_mismatches: tuple[int, ...]
    promise: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token in the place of the target's at a mismatch.

    Attributes:
        place: number of tokens of the answer before it.
        token: the token.
        promise: of two, the one with the higher promise is tried first.
    """

    place: int
    token: int
    promise: float


def drafts_tokens(rollout: Rollout) -> list[Alternative]:
    """The draft's tokens; those first of which the draft is surer than the target of its own."""
    found: list[Alternative] = []
    for place, mismatch in zip(rollout.places, rollout.mismatches, strict=True):
        target, draft = mismatch.features[:2]
        found.append(Alternative(place, mismatch.draft, draft - target))
    return found


@dataclass(frozen=True)
class TargetsOthers:
    """At each mismatch, a token that the target samples when it must not take its first choice.

    Attributes:
        pair: the models.
        seed: of what is sampled.
    """

    pair: Pair
    seed: int = 0

    def __call__(self, rollout: Rollout) -> list[Alternative]:
        """The tokens, in an order by chance."""
        if not rollout.places:
            return []
        return self.pair.between_rounds(lambda: self._sample(rollout))

    @torch.inference_mode()
    def _sample(self, rollout: Rollout) -> list[Alternative]:
        runner = self.pair.engine.runners["target"]
        tokens = torch.tensor([[*rollout.prompt, *rollout.tokens]], device=runner.device)
        row = runner.allocate()
        try:
            known = len(rollout.prompt) - 1
            runner.forward([row], tokens[:, :known], [0], logits="none")
            logits = runner.forward([row], tokens[:, known:-1], [known]).logits
        finally:
            runner.release(row)
        at = logits[0, list(rollout.places)].float().cpu()
        at.scatter_(1, at.argmax(-1, keepdim=True), -torch.inf)
        # The same answer has the same alternatives, whatever else was searched before.
        own = mixed(self.seed, rollout.question, len(rollout.tokens))
        generator = torch.Generator().manual_seed(own)
        drawn = torch.multinomial(at.softmax(-1), 1, generator=generator)[:, 0].tolist()
        order = torch.rand(len(drawn), generator=generator).tolist()
        return [
            Alternative(place, token, promise)
            for place, token, promise in zip(rollout.places, drawn, order, strict=True)
        ]


@dataclass(frozen=True)
class Oracle:
    """A beam search over accepted mismatches; the target alone finishes every branch.

    Attributes:
        pair: the models.
        task: graded questions.
        arbiter: never decides; its features must begin with `target_target` and `draft_draft`, by
            which branches are ranked where there are more than the beam is wide.
        alternatives: the tokens that are tried in the place of the target's.
        depth: the largest number of accepted mismatches of an answer.
        width: of the beam: the number of answers of each question that are branched further.
        batch: answers at a time.
    """

    pair: Pair
    task: LoadedTask
    arbiter: Arbiter
    depth: int = 3
    width: int = 4
    batch: int = 16
    alternatives: Callable[[Rollout], list[Alternative]] = drafts_tokens

    def search(
        self, questions: Sequence[int], on_batch: Callable[[int], None] | None = None
    ) -> list[Saved]:
        """Search for a right answer to each question."""
        found: list[Saved] = []
        for start in range(0, len(questions), self.batch):
            chunk = questions[start : start + self.batch]
            for rollout in roll_out(self.pair, self.task, chunk, self._target):
                found.append(self._search_one(rollout))
            if on_batch is not None:
                on_batch(start + len(chunk))
        return found

    @property
    def _target(self) -> RolloutPolicy:
        return RolloutPolicy(self.arbiter, NEVER)

    def _search_one(self, rollout: Rollout) -> Saved:
        if rollout.right:
            return Saved(rollout.question, (), 0)
        beam, tried = [_Node(rollout, (), 0.0)], 0
        for _ in range(self.depth):
            nodes = [child for node in beam for child in self._children(node)]
            nodes.sort(key=lambda node: -node.promise)
            finished: list[_Node] = []
            for start in range(0, len(nodes), self.batch):
                finished += self._finish(nodes[start : start + self.batch])
            tried += len(finished)
            for node in finished:
                if node.rollout.right:
                    return Saved(rollout.question, node.accepted_mismatches, tried)
            beam = finished[: self.width]
        return Saved(rollout.question, None, tried)

    def _children(self, node: _Node) -> list[_Node]:
        """The answer up to each of its later mismatches, with another token there."""
        rollout, children = node.rollout, []
        for other in self.alternatives(rollout):
            begun = Rollout(
                rollout.question,
                False,
                rollout.prompt,
                (*rollout.tokens[: other.place], other.token),
                (),
                (),
                rollout.counters,
            )
            places = (*node.accepted_mismatches, other.place)
            children.append(_Node(begun, places, node.promise + other.promise))
        return children

    def _finish(self, nodes: Sequence[_Node]) -> list[_Node]:
        """Let the target alone finish the answers of several nodes."""
        ends = self.pair.end_tokens
        room = self.pair.max_length
        open_ones = [
            n
            for n in nodes
            if n.rollout.tokens[-1] not in ends
            and len(n.rollout.prompt) + len(n.rollout.tokens) < room
        ]
        rollouts = roll_out(
            self.pair,
            self.task,
            [n.rollout.question for n in open_ones],
            self._target,
            written=[n.rollout.tokens for n in open_ones],
        )
        return [
            _Node(rollout, node.accepted_mismatches, node.promise)
            for rollout, node in zip(rollouts, open_ones, strict=True)
        ]
