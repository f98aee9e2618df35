"""Label sources: the references of answers and steps, right ones or the target's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stet.calibration.rollouts import prompt_of, with_room
from stet.core.errors import StetError
from stet.core.reading import read_records
from stet.core.steps import normalise
from stet.core.writing import append_lines, drop_torn_line, json_line
from stet.evaluation.graders import Grader
from stet.executors.base import Executor, Work
from stet.executors.local import executor_of
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class LabelSource:
    """A label source, with the words for results that are measured against it.

    Attributes:
        name: its name in records.
        quantity: the share of answers that pass, as the label of an axis.
        heading: the share of answers that pass, as the heading of a column.
        share: a phrase with that share, in the past tense: "answered {} rightly".
        able: a phrase with that share, in the present tense: "answers {} rightly".
        loss: the loss that the bound on risk is about, as a heading.
        fault: the kind of error whose first occurrence is a loss.
        risk: the loss in the claim, after "at most x of new problems ...".
        note: a caution for readers of every table; empty where none is needed.
    """

    name: str
    quantity: str
    heading: str
    share: str
    able: str
    loss: str
    fault: str
    risk: str
    note: str = ""


ANSWERS = LabelSource(
    name="answers",
    quantity="accuracy",
    heading="right",
    share="answered {} rightly",
    able="answers {} rightly",
    loss="lost to a step",
    fault="error",
    risk="get their first error from an accepted draft step",
)
TARGETS_ANSWER = LabelSource(
    name="target's answer",
    quantity="agreement with the target",
    heading="as the target",
    share="gave the target's own answer to {}",
    able="gives the target's own answer to {}",
    loss="first disagreement",
    fault="disagreement with the target",
    risk=(
        "get from an accepted draft step the first step that disagrees with the target: one after "
        "which the target no longer reaches its own answer"
    ),
    note=(
        "Without right answers: an answer counts where it is the target's own, which does not "
        "mean that it is right."
    ),
)
TARGETS_TEXT = LabelSource(
    name="target's text",
    quantity="agreement with the target",
    heading="as the target",
    share="wrote the target's own text for {}",
    able="writes the target's own text for {}",
    loss="first disagreement",
    fault="disagreement with the target",
    risk=(
        "get from an accepted draft step the first step that disagrees with the target: one that "
        "the target would have worded differently"
    ),
    note=(
        "Without right answers or a grader: a text counts where it is the target's own, case and "
        "white space aside. That does not mean that it is right, and other words for the same "
        "thing count as disagreement."
    ),
)
LABEL_SOURCES = {y.name: y for y in (ANSWERS, TARGETS_ANSWER, TARGETS_TEXT)}


@dataclass(frozen=True)
class SameText(Grader):
    """Grades an answer by its whole text, case and white space aside."""

    name: ClassVar[str] = "same-text"

    def extract(self, text: str) -> str | None:
        """The normalised text; None where it is empty."""
        return normalise(text) or None

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether the answer is the reference, case and white space aside."""
        return answer is not None and answer == normalise(reference)


def label_source_of(task: LoadedTask, without_answers: bool) -> LabelSource:
    """The label source of a task."""
    known = task.grader is not None and all(q.reference is not None for q in task.questions)
    if known and not without_answers:
        return ANSWERS
    return TARGETS_TEXT if task.grader is None else TARGETS_ANSWER


@dataclass(frozen=True, slots=True)
class OwnText:
    """What the target writes for a question; empty where that failed."""

    question: str
    text: str


@dataclass(frozen=True)
class AskingTarget(Work["Sequence[Question]", list[OwnText]]):
    """Has the target answer chunks of questions.

    Attributes:
        task: the settings of their requests.
    """

    task: LoadedTask

    def run(self, pair: Pair, chunk: Sequence[Question]) -> Iterator[list[OwnText]]:
        """Answer a chunk; a text that failed is empty."""
        results = pair.generate(
            [prompt_of(pair, self.task, q) for q in chunk],
            "exact",
            max_new_tokens=self.task.max_new_tokens,
            fit=True,
            stop=list(self.task.stop),
            **PINNED,
        )
        yield [
            OwnText(question.id, result.text if result.error is None else "")
            for question, result in zip(chunk, results, strict=True)
        ]


def with_own_answers(
    where: Pair | Executor,
    task: LoadedTask,
    path: Path,
    batch: int,
    report: Callable[[str, int, int], None],
) -> LoadedTask:
    """The task with the target's own greedy answers as references.

    Questions to which the target gives no answer that the grader can read are left out.

    Args:
        where: the pair whose target answers, or what has such pairs.
        task: the task; its references are not used. Without a grader, whole texts are compared.
        path: file of the target's texts; those that it holds are not generated again.
        batch: questions at a time.
        report: called with the progress.

    Raises:
        StetError: the target answers none of the questions.
    """
    executor = executor_of(where)
    task = executor.call(partial(with_room, task=task))
    texts = _read(path)
    chunks = (task.questions[at : at + batch] for at in range(0, len(task.questions), batch))
    waiting = (chunk for chunk in chunks if any(q.id not in texts for q in chunk))
    for finished in executor.map(AskingTarget(replace(task, questions=[])), waiting):
        new = [own for part in finished.parts for own in part if own.question not in texts]
        texts |= {own.question: own.text for own in new}
        append_lines(path, [json_line(asdict(own)) for own in new])
        report("asking the target", len(texts), len(task.questions))
    grader = SameText() if task.grader is None else task.grader
    questions: list[Question] = []
    for question in task.questions:
        answer = grader.extract(texts[question.id])
        if answer is not None and grader.reads(answer) and grader.right(answer, answer):
            questions.append(replace(question, reference=answer))
    if not questions:
        raise StetError(
            f"The target answers none of the {len(task.questions)} questions in a way that the "
            f"grader {grader.name!r} can read; give prompts in the form that the model expects, "
            "or another grader."
        )
    return replace(task, questions=questions, grader=grader)


def _read(path: Path) -> dict[str, str]:
    """Read texts by question; an incomplete last line, as after a crash, is removed."""
    from pydantic import TypeAdapter

    if not path.exists():
        return {}
    lines: list[OwnText] = list(read_records(path, TypeAdapter(OwnText), "a text of the target"))
    drop_torn_line(path)
    return {line.question: line.text for line in lines}
