"""Both ways on from every disagreement, to their ends: what an arbiter learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stet.calibration.rollouts import Prefix, Rollouts
from stet.core.errors import StetError
from stet.core.trace import MismatchRecord
from stet.training.rollout_policy import Rollout, RolloutPolicy, roll_out

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

CELLS = ("both right", "draft only", "target only", "neither")
"""What can come of a disagreement: whose token leads to the right answer."""


@dataclass(frozen=True, slots=True)
class Branches:
    """N disagreements and what came of both ways on, column by column.

    Attributes:
        features: [N, F] float32, what is known when the decision is due.
        question: [N] int64, place of the question in the task.
        place: [N] int64, tokens of the answer before it.
        draft: [N] int64, the draft's token.
        target: [N] int64, the target's.
        with_draft: [N] bool, whether the answer comes out right with the draft's token.
        with_target: [N] bool, the same with the target's.
    """

    features: Tensor
    question: Tensor
    place: Tensor
    draft: Tensor
    target: Tensor
    with_draft: Tensor
    with_target: Tensor

    def __len__(self) -> int:
        """How many."""
        return len(self.question)

    def advantage(self, cost: float) -> Tensor:
        """[N] float32: what the draft's token is worth more than the target's.

        Args:
            cost: of a target's token that stands against the draft's, in right answers: it ends a
                block.
        """
        return self.with_draft.float() - self.with_target.float() + cost

    def cells(self) -> dict[str, int]:
        """How many of each kind of outcome."""
        draft, target = self.with_draft, self.with_target
        found = (draft & target, draft & ~target, ~draft & target, ~draft & ~target)
        return {name: int(which.sum()) for name, which in zip(CELLS, found, strict=True)}

    def where(self, chosen: Tensor) -> Branches:
        """Some of them, by a mask or by places."""
        return Branches(*(getattr(self, name)[chosen] for name in _COLUMNS))

    def save(self, path: Path) -> None:
        """Write the columns; a reader sees all of them or none."""
        partial = path.with_suffix(".partial")
        save_file({name: getattr(self, name).contiguous() for name in _COLUMNS}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Branches:
        """Read what `save` wrote.

        Raises:
            StetError: the file is something else.
        """
        try:
            columns = load_file(path)
            return cls(*(columns[name] for name in _COLUMNS))
        except (OSError, SafetensorError, KeyError) as error:
            raise StetError(f"{path} holds no branches ({error}).") from error

    @classmethod
    def joined(cls, parts: Iterable[Branches]) -> Branches:
        """Several sets as one.

        Raises:
            StetError: there are none.
        """
        found = list(parts)
        if not found:
            raise StetError(
                "There are no branches: the models never disagreed, or nothing was run."
            )
        return cls(*(torch.cat([getattr(p, name) for p in found]) for name in _COLUMNS))


_COLUMNS = ("features", "question", "place", "draft", "target", "with_draft", "with_target")


@dataclass(frozen=True)
class Brancher:
    """Collects branches of a policy's own answers, resumably: one file for each batch of questions.

    The answer itself is one of the two ways on from each of its disagreements; the other is
    finished by the same policy. What is right is the task's to say: with the target's own answers
    as references these are AutoJudge's labels.

    Attributes:
        pair: the models.
        task: graded questions.
        policy: decides by a threshold, on the way and behind the branch.
        batch: questions at a time.
    """

    pair: Pair
    task: LoadedTask
    policy: RolloutPolicy
    batch: int = 16

    def collect(
        self,
        folder: Path,
        questions: Sequence[int],
        on_batch: Callable[[int], None] | None = None,
    ) -> Branches:
        """Branches of these questions; batches whose file is there are read.

        Args:
            folder: of the files.
            questions: places in the task.
            on_batch: told how many questions are done.

        Raises:
            StetError: the models never disagreed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        parts: list[Branches] = []
        for number, start in enumerate(range(0, len(questions), self.batch)):
            chunk = questions[start : start + self.batch]
            path = folder / f"branches-{number:05d}.safetensors"
            if not path.exists():
                self._branches(chunk).save(path)
            parts.append(Branches.load(path))
            if on_batch is not None:
                on_batch(start + len(chunk))
        return Branches.joined(parts)

    def _branches(self, questions: Sequence[int]) -> Branches:
        rollouts = roll_out(self.pair, self.task, questions, self.policy)
        assert self.task.grader is not None
        finishing = Rollouts(
            self.pair,
            self.task.grader,
            self.task.max_new_tokens,
            self.task.stop,
            policy=self.policy,
        )
        flips = iter(finishing.sound([p for g in rollouts for p in self._flips(g)]))
        rows = [(g, at, d, next(flips)) for g in rollouts for at, d in _decisions(g)]
        width = self.policy.arbiter.network.inputs
        return Branches(
            features=torch.tensor([d.features for _, _, d, _ in rows]).reshape(-1, width),
            question=torch.tensor([g.question for g, *_ in rows], dtype=torch.long),
            place=torch.tensor([at for _, at, *_ in rows], dtype=torch.long),
            draft=torch.tensor([d.draft for _, _, d, _ in rows], dtype=torch.long),
            target=torch.tensor([d.target for _, _, d, _ in rows], dtype=torch.long),
            with_draft=torch.tensor(
                [g.right if d.accepted else flip for g, _, d, flip in rows], dtype=torch.bool
            ),
            with_target=torch.tensor(
                [flip if d.accepted else g.right for g, _, d, flip in rows], dtype=torch.bool
            ),
        )

    def _flips(self, rollout: Rollout) -> list[Prefix]:
        """The answer up to each decision, with the other token."""
        reference = self.task.questions[rollout.question].reference or ""
        return [
            Prefix(
                rollout.prompt,
                (*rollout.tokens[:at], mismatch.target if mismatch.accepted else mismatch.draft),
                reference,
            )
            for at, mismatch in _decisions(rollout)
        ]


def _decisions(rollout: Rollout) -> list[tuple[int, MismatchRecord]]:
    return list(zip(rollout.places, rollout.mismatches, strict=True))
