"""Running a comparison: every contender answers every question, in turns, and all is recorded.

Fair: all contenders get the same prompts with the same seeds in the same batches; they take turns
chunk by chunk, in a rotating order, so a machine that slows down slows all alike; each is warmed up
on questions whose answers are discarded.

Safe: a chunk's answers are written when it is done, by this process, wherever they come from. A run
that is started again goes on after them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.core.errors import OptionError, StetError
from stet.core.folders import PROFILE
from stet.core.machine import machine, versions
from stet.core.writing import append_lines, drop_torn_line, json_line, write_text
from stet.evaluation import records
from stet.evaluation.answering import Answering, Portion, Turn
from stet.evaluation.contenders import Contender
from stet.evaluation.records import Answer, QuestionEntry, Results, Run
from stet.executors.base import Executor, Finished
from stet.executors.local import executor_of
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair


@dataclass(frozen=True)
class Plan:
    """The plan of a comparison.

    Attributes:
        task: questions and grader.
        contenders: the contenders that are compared.
        reference: label of the contender that the others are compared to.
        primary: labels of the comparisons declared beforehand.
        seeds: the seeds; each is a full run over all questions.
        batch: questions at a time.
        options: options of all requests; `stop` is the task's where it is not among them.
        command: the command line, for the record.
        note: a note for readers of every table.
    """

    task: LoadedTask
    contenders: Sequence[Contender]
    reference: str = "target"
    primary: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    batch: int = 1
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    command: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be run.

        Raises:
            OptionError: naming the problem.
        """
        labels = [c.label for c in self.contenders]
        for label in (self.reference, *self.primary):
            if label not in labels:
                listed = ", ".join(labels)
                raise OptionError(f"There is no policy {label!r} in this run; it has: {listed}.")
        if self.reference in self.primary:
            raise OptionError(f"{self.reference!r} cannot be compared to itself.")
        if self.task.grader is None and any(c.majority for c in self.contenders):
            raise OptionError("A majority needs a task with a grader: votes are over its answers.")
        if not self.task.questions:
            raise OptionError(f"Task {self.task.name!r} has no questions.")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise OptionError("Give at least one seed, and none of them twice.")

    def chunks(self) -> Iterator[tuple[int, Sequence[Question]]]:
        """The chunks of questions in which contenders take turns, each with its first index."""
        questions = self.task.questions
        for start in range(0, len(questions), self.batch):
            yield start, questions[start : start + self.batch]


class Comparison:
    """A run of a plan in a results folder, from its beginning or from where it stopped."""

    def __init__(self, where: Pair | Executor, plan: Plan, folder: Path) -> None:
        """Open the folder.

        Args:
            where: the models; or what runs chunks of questions elsewhere.
            plan: what is compared.
            folder: the results folder.

        Raises:
            StetError: the folder holds another run.
        """
        self.executor = executor_of(where)
        self.plan, self.run = self.executor.call(partial(_open, plan))
        self.folder = folder
        self.answers: list[Answer] = []
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / records.RUN).exists():
            self._resume()
        else:
            text = json_line(asdict(self.run), indent=1)
            write_text(folder / records.RUN, text + "\n")
        self._done = {a.key for a in self.answers}

    @property
    def total(self) -> int:
        """Answers of the whole run."""
        plan = self.plan
        return len(plan.task.questions) * len(plan.contenders) * len(plan.seeds)

    def _resume(self) -> None:
        old = records.read_run(self.folder)
        differing = [name for name in _SAME if getattr(old, name) != getattr(self.run, name)]
        if differing:
            raise StetError(
                f"{self.folder} holds another run (it differs in {', '.join(differing)}); choose "
                "another folder, or delete that one."
            )
        self.run = old
        # Both are read to their ends, so that damage is reported before either is changed.
        found, traces = records.read_answers(self.folder), list(records.read_traces(self.folder))
        self.answers = _whole_chunks(found)
        for name in (records.ANSWERS, records.TRACES):
            drop_torn_line(self.folder / name)
        # A chunk that a crash cut short is answered again.
        if len(self.answers) < len(found):
            _rewrite(self.folder / records.ANSWERS, [a.to_json() for a in self.answers])
        kept = {a.key for a in self.answers}
        whole = [t for t in traces if (t["policy"], t["question"], t["seed"]) in kept]
        if len(whole) < len(traces):
            _rewrite(self.folder / records.TRACES, [json_line(t) for t in whole])

    def go(self, on_answers: Callable[[list[Answer]], None] | None = None) -> Results:
        """Answer the questions that are not answered yet.

        Args:
            on_answers: called with answers as they are written: those of a chunk of a contender,
                or, where they come from a worker, of a chunk of all contenders.
        """
        with self.executor.costs_of_run(self.folder / PROFILE):
            for finished in self.executor.map(self._work(), self._portions()):
                written = self._write(finished)
                if on_answers is not None:
                    on_answers(written)
        return Results(self.run, self.answers, self.folder)

    def _work(self) -> Answering:
        plan = self.plan
        return Answering(
            contenders=[c for c in plan.contenders if not self._complete(c)],
            options=plan.options,
            grader=plan.task.grader,
            chat=plan.task.chat,
            first=plan.task.questions[: plan.batch],
        )

    def _complete(self, item: Contender) -> bool:
        return all(
            (item.label, q.id, seed) in self._done
            for q in self.plan.task.questions
            for seed in self.plan.seeds
        )

    def _portions(self) -> Iterator[Portion]:
        """The chunks that are not answered yet, each with the contenders that lack it, in turns."""
        labels = [c.label for c in self.plan.contenders]
        for index, (seed, (start, questions)) in enumerate(
            (seed, chunk) for seed in self.plan.seeds for chunk in self.plan.chunks()
        ):
            turn = index % len(labels)
            left = [
                label
                for label in (*labels[turn:], *labels[:turn])
                if any((label, q.id, seed) not in self._done for q in questions)
            ]
            if left:
                yield Portion(index, seed, start, questions, left)

    def _write(self, finished: Finished[Turn]) -> list[Answer]:
        """Write what is answered to disk; a worker's chunk with its machine."""
        answers = [answer for turn in finished.parts for answer in turn.answers]
        for answer in answers:
            answer.machine = finished.machine
        # Traces first: an answer on disk always has its trace.
        traces = [line for turn in finished.parts for line in turn.traces]
        append_lines(self.folder / records.TRACES, traces)
        append_lines(self.folder / records.ANSWERS, [a.to_json() for a in answers])
        self.answers += answers
        self._done |= {a.key for a in answers}
        return answers


_SAME = (
    "task",
    "questions",
    "policies",
    "reference",
    "primary",
    "seeds",
    "batch",
    "options",
    "chat",
    "target",
    "draft",
    "grader",
)
"""Settings that must be equal for a run to continue another."""


def _open(plan: Plan, pair: Pair) -> tuple[Plan, Run]:
    """The plan as it suits a pair, and the settings of its run."""
    task = plan.task.suited(pair)
    plan = replace(plan, task=task, options={"stop": list(task.stop), **PINNED, **plan.options})
    return plan, _describe(pair, plan)


def _describe(pair: Pair, plan: Plan) -> Run:
    task = plan.task
    grader = task.grader
    return Run(
        task=task.name,
        questions=[QuestionEntry(q.id, q.prompt, q.reference, q.group) for q in task.questions],
        policies=[c.entry for c in plan.contenders],
        reference=plan.reference,
        primary=list(plan.primary),
        seeds=list(plan.seeds),
        batch=plan.batch,
        # As JSON, so that a run equals itself read back.
        options=json.loads(json.dumps(plan.options)),
        chat=_chat(pair, task),
        target=pair.target.identity,
        draft=None if pair.draft is None else pair.draft.identity,
        graded=grader is not None,
        grader={} if grader is None else {"name": grader.name, **grader.settings},
        note=plan.note or task.note,
        machine=machine(),
        versions=versions(),
        command=plan.command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _chat(pair: Pair, task: LoadedTask) -> dict[str, Any] | None:
    """The record of how prompts become chats; None where they do not."""
    if task.chat is None:
        return None
    rendered = task.chat.prompt(pair, task.questions[0].prompt)
    return {"system": task.chat.system, **rendered.record}


def _whole_chunks(answers: Sequence[Answer]) -> list[Answer]:
    """Drop the answers of chunks that were only partly written."""
    found: dict[tuple[str, int, int], list[Answer]] = {}
    for answer in answers:
        found.setdefault((answer.policy, answer.seed, answer.chunk), []).append(answer)
    whole = {key for key, group in found.items() if len(group) == group[0].chunk_answers}
    return [a for a in answers if (a.policy, a.seed, a.chunk) in whole]


def _rewrite(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(line + "\n" for line in lines))
