"""Running an arbiter on problems and recording every decision with its features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from stet.arbiter import Arbiter
from stet.calibration.rollouts import prompt_of
from stet.core.blocks import ARBITRATE, Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.trace import Counters, MismatchRecord
from stet.core.verification import Verification
from stet.executors.base import Executor, Work
from stet.policies.arbiter_inference import Above, Rule, arbitrate
from stet.policies.mismatches import REASONS
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair


@dataclass(frozen=True)
class RolloutPolicy(TokenPolicy):
    """`cospec` that records the features of each decision, and may sample its decisions.

    Attributes:
        arbiter: the arbiter that decides.
        threshold: the probability above which the draft's token is accepted; None: it is accepted
            at random, with that probability.
    """

    arbiter: Arbiter
    threshold: float | None = None

    name: ClassVar[str] = "cospec-in-training"
    lossless: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = REASONS
    defers_bonus: ClassVar[bool] = True

    @property
    def block_invariant(self) -> bool:
        """Whether greedy text is the same wherever blocks end; not where decisions are sampled."""
        return self.threshold is not None and not self.arbiter.in_block

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the models' passes."""
        return self.arbiter.needs | {Need.DRAFT_PROBS}

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        return arbitrate(blocks, self.arbiter, self._rule(blocks), keep=True)

    def _rule(self, blocks: Blocks) -> Rule:
        if self.threshold is not None:
            return Above(self.threshold)
        return ByChance(blocks.uniform(ARBITRATE, blocks.drafted.shape[1]))


@dataclass(frozen=True, slots=True)
class ByChance:
    """Accept the draft's token at random, with the probability that the arbiter computes.

    Attributes:
        uniforms: [B, K], the uniform random numbers that probabilities are compared with.
    """

    uniforms: Tensor

    def many(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """The decisions for N positions, [N] bool; see `stet.policies.arbiter_inference.Rule`."""
        return self.uniforms[rows, places] < score

    def one(self, score: float, row: int, place: int) -> bool:
        """The decision for one position; see `stet.policies.arbiter_inference.Rule`."""
        return float(self.uniforms[row, place]) < score


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer with its decisions at mismatches.

    Attributes:
        question: index of the question in the task.
        right: whether the answer is right.
        prompt: tokens of the question.
        tokens: tokens of the answer.
        places: for each decision, the number of tokens of the answer before it.
        mismatches: the decisions.
        counters: passes and tokens of the answer.
    """

    question: int
    right: bool
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    places: tuple[int, ...]
    mismatches: tuple[MismatchRecord, ...]
    counters: Counters

    @property
    def features(self) -> Tensor:
        """The features of the decisions, [N, F] float32."""
        return torch.tensor([d.features for d in self.mismatches])


def roll_out(
    pair: Pair,
    task: LoadedTask,
    questions: Sequence[int],
    policy: RolloutPolicy,
    *,
    seeds: Sequence[int] | None = None,
    written: Sequence[tuple[int, ...]] | None = None,
) -> list[Rollout]:
    """Answer questions under a policy, in a single call of the pair.

    Args:
        pair: the models.
        task: graded questions.
        questions: indices of the questions to answer; an index may be given several times.
        policy: the policy.
        seeds: a seed for each question, where decisions are sampled.
        written: tokens with which each answer begins; only decisions after them are recorded.

    Raises:
        OptionError: the task has no grader.
    """
    grader = task.grader
    if grader is None:
        raise OptionError(f"Task {task.name!r} has no grader; there is nothing to learn from.")
    asked: list[Question] = [task.questions[i] for i in questions]
    prompts = [prompt_of(pair, task, q) for q in asked]
    begun = written or [()] * len(asked)
    results = pair.generate(
        [[*prompt, *tokens] for prompt, tokens in zip(prompts, begun, strict=True)],
        policy,
        max_new_tokens=task.max_new_tokens,
        fit=True,
        stop=list(task.stop),
        seed=seeds,
        # A policy is chosen by its tokens per pass, too.
        draft_length=pair.auto_length(
            block_invariant=policy.block_invariant, lossless=False, fits=False
        ),
        **PINNED,
    )
    rollouts: list[Rollout] = []
    for place, question, prompt, tokens, result in zip(
        questions, asked, prompts, begun, results, strict=True
    ):
        text = pair.tokenizer.decode(list(tokens), skip_special_tokens=True) + result.text
        right = result.error is None and grader.right(
            grader.extract(text), question.reference or ""
        )
        found = [(b.position + d.at, d) for b in result.trace.blocks for d in b.mismatches]
        # Decisions after the end of the answer do not count.
        found = [(at, d) for at, d in found if at < len(result.token_ids)]
        rollouts.append(
            Rollout(
                question=place,
                right=right,
                prompt=prompt,
                tokens=(*tokens, *result.token_ids),
                places=tuple(len(tokens) + at for at, _ in found),
                mismatches=tuple(d for _, d in found),
                counters=result.counters,
            )
        )
    return rollouts


@dataclass(frozen=True, slots=True)
class Asked:
    """A chunk of answers that are asked for.

    Attributes:
        start: the number of the first one among all that are asked for.
        questions: indices of the questions in the task.
        seeds: a seed for each, where decisions are sampled.
    """

    start: int
    questions: Sequence[int]
    seeds: Sequence[int] | None = None


@dataclass(frozen=True)
class RollingOut(Work[Asked, tuple[int, list[Rollout]]]):
    """Answers chunks of questions under a policy; yields where a chunk begins, and its rollouts.

    Attributes:
        task: graded questions.
        policy: the policy.
    """

    task: LoadedTask
    policy: RolloutPolicy

    def run(self, pair: Pair, chunk: Asked) -> Iterator[tuple[int, list[Rollout]]]:
        """Answer a chunk."""
        found = roll_out(pair, self.task, chunk.questions, self.policy, seeds=chunk.seeds)
        yield chunk.start, found


def roll_out_all(
    executor: Executor,
    task: LoadedTask,
    questions: Sequence[int],
    policy: RolloutPolicy,
    batch: int,
    *,
    seeds: Sequence[int] | None = None,
) -> list[Rollout]:
    """Answer questions under a policy, in chunks, by whoever has the models.

    Args:
        executor: has the models.
        task: graded questions.
        questions: indices of the questions to answer; an index may be given several times.
        policy: the policy.
        batch: questions of a chunk.
        seeds: a seed for each question, where decisions are sampled.

    Returns:
        The rollouts, in the order of the questions.
    """
    chunks = (
        Asked(at, questions[at : at + batch], None if seeds is None else seeds[at : at + batch])
        for at in range(0, len(questions), batch)
    )
    parts = [
        part
        for finished in executor.map(RollingOut(task, policy), chunks)
        for part in finished.parts
    ]
    return [rollout for _, found in sorted(parts, key=lambda part: part[0]) for rollout in found]
