"""Running a step policy on problems, and labelling the steps that its draft proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stet.calibration import samples
from stet.calibration.labels import Label, Labelling, LabellingByAnswer, Proposal
from stet.calibration.rollouts import Prefix, Rolling, prompt_of
from stet.calibration.samples import ProblemSample, StepSample
from stet.calibration.states import Recording, States, save
from stet.core.errors import OptionError
from stet.core.writing import drop_torn_line
from stet.executors.base import Executor, Work
from stet.executors.local import executor_of
from stet.requests.options import PINNED, Options
from stet.requests.seeds import mixed

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.core.trace import StepRecord
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair
    from stet.policies import SpecGuard


Asked = Sequence[tuple[int, "Question"]]
"""A chunk of questions, each with its index among those of the task."""


@dataclass(frozen=True)
class Labelled:
    """The labelled steps of a chunk of questions.

    Attributes:
        samples: the problems with their steps.
        states: hidden states of the steps; empty where they are not kept.
    """

    samples: list[ProblemSample]
    states: States


@dataclass(frozen=True)
class Collector:
    """Collects labelled steps of a policy, resumably.

    Attributes:
        where: the models, or what has workers with them.
        task: graded questions with references.
        policy: the policy that answers the questions; its signals are recorded.
        batch: questions at a time.
        seed: seed from which those of the requests are derived.
        labelling: how steps are labelled; by default by the target's greedy completions.
        states: folder for hidden states of the steps, which a signal is trained on; None: they are
            not kept.
    """

    where: Pair | Executor
    task: LoadedTask
    policy: SpecGuard
    batch: int = 16
    seed: int = 0
    labelling: Labelling | None = None
    states: Path | None = None

    def collect(
        self, path: Path, on_problem: Callable[[ProblemSample], None] | None = None
    ) -> list[ProblemSample]:
        """Label the steps of all questions that are not in the file yet; returns all samples.

        Raises:
            OptionError: the task has no grader.
        """
        task, grader = self.task, self.task.grader
        if grader is None:
            raise OptionError(f"Task {task.name!r} has no grader; steps cannot be labelled.")
        labelling = self.labelling or LabellingByAnswer(
            Rolling(grader, task.max_new_tokens, task.stop)
        )
        found = samples.read(path)
        drop_torn_line(path)
        done = {s.problem for s in found}
        places = {q.id: i for i, q in enumerate(task.questions)}
        asked = [(i, q) for i, q in enumerate(task.questions) if q.reference is not None]
        chunks = (asked[at : at + self.batch] for at in range(0, len(asked), self.batch))
        # Chunks are cut alike, however much of them is there already.
        waiting = (chunk for chunk in chunks if any(q.id not in done for _, q in chunk))
        work = Labels(
            replace(task, questions=[]), self.policy, self.seed, labelling, self.states is not None
        )
        for finished in executor_of(self.where).map(work, waiting):
            for part in finished.parts:
                if self.states is not None:
                    # First of the two: a labelled step always has its states.
                    save(self.states, places[part.samples[0].problem], part.states)
                new = [sample for sample in part.samples if sample.problem not in done]
                samples.append(path, new)
                found += new
                for sample in new:
                    if on_problem is not None:
                        on_problem(sample)
        # What is fitted must not hang on which chunk came first.
        return sorted(found, key=lambda sample: places.get(sample.problem, len(places)))


@dataclass(frozen=True)
class Labels(Work[Asked, Labelled]):
    """Answers chunks of questions, and labels the steps that the draft proposed.

    Attributes:
        task: settings of the requests.
        policy: the policy that answers.
        seed: seed from which those of the requests are derived.
        labelling: how steps are labelled.
        keeps_states: whether hidden states of the steps are kept.
    """

    task: LoadedTask
    policy: SpecGuard
    seed: int
    labelling: Labelling
    keeps_states: bool

    def run(self, pair: Pair, chunk: Asked) -> Iterator[Labelled]:
        """Answer a chunk of questions and label the steps."""
        questions = [question for _, question in chunk]
        prompts = [prompt_of(pair, self.task, q) for q in questions]
        options: Options = {
            "max_new_tokens": self.task.max_new_tokens,
            "stop": list(self.task.stop),
            "fit": True,
            "seed": [mixed(self.seed, index) for index, _ in chunk],
            **PINNED,  # type: ignore[typeddict-item]
        }
        policy = Recording.of(self.policy) if self.keeps_states else self.policy
        results = pair.generate(prompts, policy, **options)
        proposals = [
            Proposal(
                Prefix(prompt, tuple(result.token_ids[: step.position]), question.reference or ""),
                tuple(step.candidates[step.chosen].ids),
                step.candidates[step.chosen].text,
            )
            for question, prompt, result in zip(questions, prompts, results, strict=True)
            for step in result.trace.steps
        ]
        labels = iter(self.labelling.of(pair, chunk[0][0]).label(proposals))
        made = [
            self._sample(question, result, [next(labels) for _ in result.trace.steps])
            for question, result in zip(questions, results, strict=True)
        ]
        if not isinstance(policy, Recording):
            yield Labelled(made, {})
            return
        places = [
            (question.id, index)
            for question, result in zip(questions, results, strict=True)
            for index in range(len(result.trace.steps))
        ]
        kept = {
            place: policy.kept[*proposal.after.prompt, *proposal.after.written]
            for place, proposal in zip(places, proposals, strict=True)
        }
        yield Labelled(made, kept)

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
