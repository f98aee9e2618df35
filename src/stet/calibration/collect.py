"""Running a step policy on problems, and labelling the steps that its draft proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stet.calibration import samples
from stet.calibration.labels import ByAnswer, Label, Labeller, Proposal
from stet.calibration.rollouts import Prefix, Rollouts, prompt_of
from stet.calibration.samples import ProblemSample, StepSample
from stet.calibration.states import Recording, States, save
from stet.core.errors import OptionError
from stet.core.writing import drop_torn_line
from stet.requests.options import PINNED, Options
from stet.requests.seeds import mixed

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.core.trace import StepRecord
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair
    from stet.policies import SpecGuard


@dataclass(frozen=True)
class Collector:
    """Collects labelled steps of a policy, resumably.

    Attributes:
        pair: the models.
        task: graded questions with references.
        policy: the policy that answers the questions; its signals are recorded.
        batch: questions at a time.
        seed: seed from which those of the requests are derived.
        labeller: labels the steps; by default by the target's greedy completions.
        states: folder for hidden states of the steps, which a signal is trained on; None: they are
            not kept.
    """

    pair: Pair
    task: LoadedTask
    policy: SpecGuard
    batch: int = 16
    seed: int = 0
    labeller: Labeller | None = None
    states: Path | None = None

    def collect(
        self, path: Path, on_problem: Callable[[ProblemSample], None] | None = None
    ) -> list[ProblemSample]:
        """Label the steps of all questions that are not in the file yet; returns all samples.

        Raises:
            OptionError: the task has no grader.
        """
        grader = self.task.grader
        if grader is None:
            raise OptionError(f"Task {self.task.name!r} has no grader; steps cannot be labelled.")
        labeller = self.labeller or ByAnswer(
            Rollouts(self.pair, grader, self.task.max_new_tokens, self.task.stop)
        )
        found = samples.read(path)
        drop_torn_line(path)
        done = {s.problem for s in found}
        waiting = [
            (i, q)
            for i, q in enumerate(self.task.questions)
            if q.id not in done and q.reference is not None
        ]
        for start in range(0, len(waiting), self.batch):
            chunk = waiting[start : start + self.batch]
            seeds = [mixed(self.seed, i) for i, _ in chunk]
            made, kept = self._collect_batch([q for _, q in chunk], seeds, labeller)
            if self.states is not None:
                # First of the two: a labelled step always has its states.
                save(self.states, chunk[0][0], kept)
            samples.append(path, made)
            found += made
            for sample in made:
                if on_problem is not None:
                    on_problem(sample)
        return found

    def _collect_batch(
        self, questions: Sequence[Question], seeds: Sequence[int], labeller: Labeller
    ) -> tuple[list[ProblemSample], States]:
        """Answer a batch of questions, and label the steps that the draft proposed."""
        prompts = [prompt_of(self.pair, self.task, q) for q in questions]
        options: Options = {
            "max_new_tokens": self.task.max_new_tokens,
            "stop": list(self.task.stop),
            "fit": True,
            "seed": seeds,
            **PINNED,  # type: ignore[typeddict-item]
        }
        policy = self.policy if self.states is None else Recording.of(self.policy)
        results = self.pair.generate(prompts, policy, **options)
        proposals = [
            Proposal(
                Prefix(prompt, tuple(result.token_ids[: step.position]), question.reference or ""),
                tuple(step.candidates[step.chosen].ids),
                step.candidates[step.chosen].text,
            )
            for question, prompt, result in zip(questions, prompts, results, strict=True)
            for step in result.trace.steps
        ]
        labels = iter(labeller.label(proposals))
        made = [
            self._sample(question, result, [next(labels) for _ in result.trace.steps])
            for question, result in zip(questions, results, strict=True)
        ]
        if not isinstance(policy, Recording):
            return made, {}
        places = [
            (question.id, index)
            for question, result in zip(questions, results, strict=True)
            for index in range(len(result.trace.steps))
        ]
        kept = {
            place: policy.kept[*proposal.after.prompt, *proposal.after.written]
            for place, proposal in zip(places, proposals, strict=True)
        }
        return made, kept

    def _sample(self, question: Question, result: Result, labels: Sequence[Label]) -> ProblemSample:
        grader = self.task.grader
        assert grader is not None
        steps = [
            _step(question.id, index, step, label)
            for index, (step, label) in enumerate(zip(result.trace.steps, labels, strict=True))
        ]
        right = result.error is None and grader.right(
            grader.extract(result.text), question.reference or ""
        )
        return ProblemSample(question.id, right, steps)


def _step(problem: str, index: int, step: StepRecord, label: Label) -> StepSample:
    return StepSample(
        problem=problem,
        index=index,
        tokens=len(step.candidates[step.chosen].ids),
        signals=step.signals,
        good=label.good,
        saves=label.saves,
        kept=step.decision == "accepted",
    )
