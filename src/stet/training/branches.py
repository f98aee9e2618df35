"""Branches: rollouts of both tokens from every mismatch, which an arbiter is trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stet.calibration.rollouts import Prefix, Rollouts
from stet.core.errors import StetError
from stet.core.trace import MismatchRecord
from stet.executors.base import Executor, Work
from stet.executors.local import executor_of
from stet.training.rollout_policy import Rollout, RolloutPolicy, roll_out

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

FIRST = "sweep-0"
"""Folder of a training's first branches, from answers in which no mismatch was accepted."""

CELLS = ("both right", "draft only", "target only", "neither")
"""The outcomes of a mismatch: whose token leads to the right answer."""


@dataclass(frozen=True, slots=True)
class Branches:
    """N mismatches with the outcomes of both tokens, column by column.

    Attributes:
        features: [N, F] float32, the features at the time of the decision.
        question: [N] int64, index of the question in the task.
        place: [N] int64, number of tokens of the answer before the mismatch.
        draft: [N] int64, the draft's token.
        target: [N] int64, the target's token.
        with_draft: [N] bool, whether the answer is right with the draft's token.
        with_target: [N] bool, whether the answer is right with the target's token.
    """

    features: Tensor
    question: Tensor
    place: Tensor
    draft: Tensor
    target: Tensor
    with_draft: Tensor
    with_target: Tensor

    def __len__(self) -> int:
        """The number of mismatches."""
        return len(self.question)

    def advantage(self, cost: float) -> Tensor:
        """The advantage of the draft's token over the target's, [N] float32.

        Args:
            cost: cost of a rejected mismatch, in right answers: it ends a block.
        """
        return self.with_draft.float() - self.with_target.float() + cost

    def cells(self) -> dict[str, int]:
        """The number of mismatches of each outcome."""
        draft, target = self.with_draft, self.with_target
        found = (draft & target, draft & ~target, ~draft & target, ~draft & ~target)
        return {name: int(which.sum()) for name, which in zip(CELLS, found, strict=True)}

    def where(self, chosen: Tensor) -> Branches:
        """A part of the branches, by a mask or by indices."""
        return Branches(*(getattr(self, name)[chosen] for name in _COLUMNS))

    def shuffled(self, seed: int) -> Branches:
        """The same mismatches with each other's outcomes, of both tokens together."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return replace(self, with_draft=self.with_draft[order], with_target=self.with_target[order])

    def save(self, path: Path) -> None:
        """Write the columns to a file, atomically."""
        partial = path.with_suffix(".partial")
        save_file({name: getattr(self, name).contiguous() for name in _COLUMNS}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Branches:
        """Read branches that `save` wrote.

        Raises:
            StetError: the file holds no branches.
        """
        try:
            columns = load_file(path)
            return cls(*(columns[name] for name in _COLUMNS))
        except (OSError, SafetensorError, KeyError) as error:
            raise StetError(f"{path} holds no branches ({error}).") from error

    @classmethod
    def join(cls, parts: Iterable[Branches]) -> Branches:
        """Join several sets of branches.

        Raises:
            StetError: there are none.
        """
        found = list(parts)
        if not found:
            raise StetError("There are no branches: there were no mismatches, or nothing was run.")
        return cls(*(torch.cat([getattr(p, name) for p in found]) for name in _COLUMNS))


_COLUMNS = ("features", "question", "place", "draft", "target", "with_draft", "with_target")


@dataclass(frozen=True)
class Brancher:
    """Collects branches of a policy's own answers, resumably: one file for each batch of questions.

    The answer itself is the rollout of one of the two tokens at each of its mismatches; that of the
    other token is finished by the same policy. The references of the task are the label source:
    with the target's own answers these are the labels of AutoJudge.

    Attributes:
        where: the models, or what has workers with them.
        task: graded questions.
        policy: decides by a threshold, before and after the branch.
        batch: questions at a time.
        most: mismatches of an answer that are branched, drawn at random; None: all.
    """

    where: Pair | Executor
    task: LoadedTask
    policy: RolloutPolicy
    batch: int = 16
    most: int | None = None

    def collect(
        self,
        folder: Path,
        questions: Sequence[int],
        on_batch: Callable[[int], None] | None = None,
    ) -> Branches:
        """Collect branches of questions; batches whose file exists are read from it.

        Args:
            folder: folder of the files.
            questions: indices of the questions in the task.
            on_batch: called with the number of questions that are done.

        Raises:
            StetError: there are no questions.
        """
        folder.mkdir(parents=True, exist_ok=True)
        batches = [questions[at : at + self.batch] for at in range(0, len(questions), self.batch)]
        paths = [folder / f"branches-{n:05d}.safetensors" for n in range(len(batches))]
        waiting = [n for n, path in enumerate(paths) if not path.exists()]
        done = sum(len(batch) for n, batch in enumerate(batches) if n not in waiting)
        if on_batch is not None and done:
            on_batch(done)
        work = Branching(self.task, self.policy, self.most)
        chunks = ((number, batches[number]) for number in waiting)
        for finished in executor_of(self.where).map(work, chunks):
            for number, branches in finished.parts:
                branches.save(paths[number])
                done += len(batches[number])
                if on_batch is not None:
                    on_batch(done)
        return Branches.join(Branches.load(path) for path in paths)


@dataclass(frozen=True)
class Branching(Work[tuple[int, Sequence[int]], tuple[int, Branches]]):
    """Answers chunks of questions, and branches them; a chunk is its number and its questions.

    Attributes:
        task: graded questions.
        policy: decides by a threshold, before and after the branch.
        most: mismatches of an answer that are branched; None: all.
    """

    task: LoadedTask
    policy: RolloutPolicy
    most: int | None

    def run(self, pair: Pair, chunk: tuple[int, Sequence[int]]) -> Iterator[tuple[int, Branches]]:
        """Collect the branches of a chunk."""
        number, questions = chunk
        yield number, self._collect(pair, questions)

    def _collect(self, pair: Pair, questions: Sequence[int]) -> Branches:
        rollouts = roll_out(pair, self.task, questions, self.policy)
        assert self.task.grader is not None
        finishing = Rollouts(
            pair,
            self.task.grader,
            self.task.max_new_tokens,
            self.task.stop,
            policy=self.policy,
        )
        flips = iter(finishing.sound([p for g in rollouts for p in self._flips(g)]))
        rows = [(g, at, d, next(flips)) for g in rollouts for at, d in self._decisions(g)]
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
        """The answer up to each decision, followed by the other token."""
        reference = self.task.questions[rollout.question].reference or ""
        return [
            Prefix(
                rollout.prompt,
                (*rollout.tokens[:at], mismatch.target if mismatch.accepted else mismatch.draft),
                reference,
            )
            for at, mismatch in self._decisions(rollout)
        ]

    def _decisions(self, rollout: Rollout) -> list[tuple[int, MismatchRecord]]:
        """The decisions of an answer that are branched, with their places."""
        found = list(zip(rollout.places, rollout.mismatches, strict=True))
        if self.most is None or len(found) <= self.most:
            return found
        # The same of the same answer, however often it is asked for.
        drawn = random.Random(f"{rollout.question}/{len(rollout.tokens)}")
        return [found[place] for place in sorted(drawn.sample(range(len(found)), self.most))]


def load_folder(folder: Path) -> Branches:
    """The branches that a `Brancher` collected in a folder; none where there is none."""
    return Branches.join(Branches.load(path) for path in sorted(folder.glob("branches-*")))
