"""Running a comparison: every contender answers every question, in turns, and all is recorded.

Fair: all contenders get the same prompts with the same seeds in the same batches; they take turns
chunk by chunk, in a rotating order, so a machine that slows down slows all alike; each is warmed up
on questions whose answers are discarded.

Safe: a chunk's answers are written when it is done. A run that is started again goes on after them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.core.errors import OptionError, StetError
from stet.core.folders import PROFILE
from stet.core.machine import machine, versions
from stet.core.writing import append_lines, drop_torn_line, json_line, write_text
from stet.evaluation import records
from stet.evaluation.contenders import Contender
from stet.evaluation.records import Answer, QuestionEntry, Results, Run
from stet.evaluation.voting import Sampled, grade, vote
from stet.requests.options import PINNED
from stet.requests.seeds import mixed

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair
    from stet.requests.inputs import Prompt

WARM_UP_TOKENS = 32


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

    def __init__(self, pair: Pair, plan: Plan, folder: Path) -> None:
        """Open the folder.

        Raises:
            StetError: the folder holds another run.
        """
        task = plan.task.suited(pair)
        plan = replace(plan, task=task, options={"stop": list(task.stop), **PINNED, **plan.options})
        self.pair, self.plan, self.folder = pair, plan, folder
        self.run = _describe(pair, plan)
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
            on_answers: called with the answers of each chunk of each contender.
        """
        with self.pair.costs_of_run(self.folder / PROFILE):
            self._go(on_answers)
        return Results(self.run, self.answers, self.folder)

    def _go(self, on_answers: Callable[[list[Answer]], None] | None) -> None:
        pending = {c.label for c in self.plan.contenders if not self._complete(c)}
        for item in self.plan.contenders:
            if item.label in pending:
                self._warm_up(item)
        for index, (seed, (start, questions)) in enumerate(
            (seed, chunk) for seed in self.plan.seeds for chunk in self.plan.chunks()
        ):
            turn = index % len(self.plan.contenders)
            for item in (*self.plan.contenders[turn:], *self.plan.contenders[:turn]):
                if any((item.label, q.id, seed) not in self._done for q in questions):
                    written = self._answer(item, questions, start, seed, index)
                    if on_answers is not None:
                        on_answers(written)

    def _complete(self, item: Contender) -> bool:
        return all(
            (item.label, q.id, seed) in self._done
            for q in self.plan.task.questions
            for seed in self.plan.seeds
        )

    def _warm_up(self, item: Contender) -> None:
        questions = self.plan.task.questions[: self.plan.batch]
        prompts = self._prompts(item, questions)
        options: dict[str, Any] = {**self.plan.options, **item.options}
        options["max_new_tokens"] = min(
            options.get("max_new_tokens", WARM_UP_TOKENS), WARM_UP_TOKENS
        )
        self.pair.generate(prompts, item.policy, seed=0, **options)

    def _prompts(self, item: Contender, questions: Sequence[Question]) -> list[Prompt]:
        prompts: list[Prompt] = []
        for question in questions:
            chat = self.plan.task.chat
            text = question.prompt
            prompts += [chat.prompt(self.pair, text) if chat else text] * item.samples
        return prompts

    def _answer(
        self, item: Contender, questions: Sequence[Question], start: int, seed: int, chunk: int
    ) -> list[Answer]:
        """Answer one chunk with one contender, and write the answers to disk."""
        options: dict[str, Any] = {**self.plan.options, **item.options}
        # A sample's seed does not depend on how chunks are cut, and no two samples share one.
        options["seed"] = [
            mixed(seed, start + place, sample)
            for place in range(len(questions))
            for sample in range(item.samples)
        ]
        prompts = self._prompts(item, questions)
        began = time.perf_counter()
        results = self.pair.generate(prompts, item.policy, **options)
        seconds = time.perf_counter() - began
        answers: list[Answer] = []
        traces: list[str] = []
        grader = self.plan.task.grader
        for place, question in enumerate(questions):
            own = results[place * item.samples : (place + 1) * item.samples]
            samples = [Sampled(r, grade(r, question.reference, grader)) for r in own]
            chosen = vote(samples)
            answers.append(
                Answer(
                    policy=item.label,
                    question=question.id,
                    seed=seed,
                    text=chosen.shown.text,
                    answer=chosen.answer,
                    right=chosen.right,
                    finish_reason=chosen.shown.finish_reason,
                    error=chosen.shown.error,
                    # Samples of a vote are decoded together: the last one ends it.
                    seconds=max(r.seconds for r in own),
                    chunk=chunk,
                    chunk_seconds=seconds,
                    chunk_answers=len(questions),
                    prompt_tokens=chosen.shown.trace.prompt_tokens,
                    counters=chosen.counters,
                    signals=chosen.signals,
                    samples=item.samples,
                    votes=chosen.votes,
                )
            )
            traces.append(_trace_line(answers[-1], chosen.shown))
        # Traces first: an answer on disk always has its trace.
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


def _trace_line(answer: Answer, result: Result) -> str:
    line = {"policy": answer.policy, "question": answer.question, "seed": answer.seed}
    return json_line({**line, "trace": asdict(result.trace)})


def _rewrite(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(line + "\n" for line in lines))
