"""The files of a comparison: one line per answer, and the settings that repeat the run.

A results folder holds `run.json` (a `Run`), `answers.jsonl` (an `Answer` per line, in the order
they came) and `traces.jsonl` (for each answer a line with its trace). Everything in a report is
computed from these files, so a report can be made again without a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stet.core.errors import StetError
from stet.core.parsing import first_problem
from stet.core.reading import read_records, read_text
from stet.core.trace import Counters
from stet.core.upgrades import upgrade, upgrade_parameters
from stet.core.writing import json_line

VERSION = 2

RUN, ANSWERS, TRACES = "run.json", "answers.jsonl", "traces.jsonl"


@dataclass(slots=True)
class Answer:
    """One answer of one policy to one question.

    Attributes:
        policy: the policy's label in this run.
        question: id of the question.
        seed: the seed of the run it belongs to; the same for all policies.
        text: the text; for a vote, the first text that gave the winning answer.
        answer: the answer that the grader extracted; None where there is none, or no grader.
        right: the grade; None where the task has no grader.
        finish_reason: why it ended.
        error: one sentence; None where it did not fail.
        seconds: seconds from the start of the request to its end.
        chunk: number of the chunk of questions it was answered in.
        chunk_seconds: wall-clock time of this policy on that chunk.
        chunk_answers: questions in the chunk; `chunk_seconds` is counted once for all of them.
        prompt_tokens: tokens of the prompt.
        counters: the request's counters; the sum over samples for a vote.
        signals: signals of this answer, by name.
        samples: texts written for it; 1 except for a vote.
        votes: for a vote, the number of samples that gave each answer.
        machine: the worker that answered it, by an id, and its machine, where the run was shared
            among several; None where it was answered on the run's own.
    """

    policy: str
    question: str
    seed: int
    text: str
    answer: str | None
    right: bool | None
    finish_reason: str
    error: str | None
    seconds: float
    chunk: int
    chunk_seconds: float
    chunk_answers: int
    prompt_tokens: int
    counters: Counters
    signals: dict[str, float] = field(default_factory=dict[str, float])
    samples: int = 1
    votes: dict[str, int] = field(default_factory=dict[str, int])
    machine: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """The key that is unique to an answer of a run."""
        return self.policy, self.question, self.seed

    def to_json(self) -> str:
        """This answer as one line of JSON."""
        record = asdict(self)
        if self.machine is None:
            del record["machine"]
        return json_line(record)


@dataclass(slots=True)
class PolicyEntry:
    """A policy of a run.

    Attributes:
        label: its label in the run; unique.
        name: the policy's or baseline's own name.
        parameters: the values of all its parameters.
        lossless: whether it guarantees the target's own distribution.
        options: options of its requests where they differ from the run's.
    """

    label: str
    name: str
    parameters: dict[str, Any]
    lossless: bool
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class QuestionEntry:
    """A question of a run, for reports where the task itself is not at hand."""

    id: str
    prompt: str
    reference: str | None
    group: str | None = None


@dataclass(slots=True)
class Run:
    """The settings of a run: enough to repeat it, and to report on it.

    Attributes:
        task: name of the task.
        questions: the questions in their order.
        policies: the policies in the order they were given.
        reference: label of the policy that the others are compared to.
        primary: labels whose comparison with the reference was declared beforehand; only these
            are tested, with Holm's correction.
        seeds: the seeds; each is a full run over all questions.
        batch: questions answered at a time.
        options: options of all requests (sampling, length, stop strings).
        target: name and revision of the target.
        draft: name and revision of the draft; None for prompt lookup.
        graded: whether the task has a grader.
        grader: name of the grader, and its settings.
        note: a note for readers of every table (for example on the bundled pair).
        machine: the machine it ran on.
        versions: versions of Stet and the libraries below it.
        command: the command line.
        date: start of the run, ISO 8601, UTC.
        chat: the system prompt, the SHA-256 of the chat template and its arguments; None where
            prompts were given as they are.
        version: version of this format.
    """

    task: str
    questions: list[QuestionEntry]
    policies: list[PolicyEntry]
    reference: str
    primary: list[str]
    seeds: list[int]
    batch: int
    options: dict[str, Any]
    target: dict[str, Any]
    draft: dict[str, Any] | None
    graded: bool
    grader: dict[str, Any]
    note: str
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    date: str
    chat: dict[str, Any] | None = None
    version: int = VERSION

    def entry(self, label: str) -> PolicyEntry:
        """The policy with this label."""
        return next(p for p in self.policies if p.label == label)


@dataclass(frozen=True, slots=True)
class _TraceLine:
    """A line of `traces.jsonl`: the key of an answer, and its trace as JSON."""

    policy: str
    question: str
    seed: int
    trace: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Results:
    """A run with the answers it has so far."""

    run: Run
    answers: list[Answer]
    folder: Path | None = None

    def of(self, label: str) -> list[Answer]:
        """The answers of one policy."""
        return [a for a in self.answers if a.policy == label]


@cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_run(folder: Path) -> Run:
    """Read the settings of the run in a results folder.

    Raises:
        StetError: there are none, or they are of another version.
    """
    from pydantic import ValidationError

    path = folder / RUN
    if not path.is_file():
        raise StetError(f"{folder} holds no results of a comparison (no {RUN}).")
    try:
        run: Run = _adapter(Run).validate_json(read_text(path))
    except ValidationError as error:
        raise StetError(f"{path}: not a run ({first_problem(error, 'the file')}).") from error
    if run.version not in (1, VERSION):
        raise StetError(f"{path} has version {run.version}; this release reads {VERSION}.")
    if run.version != VERSION:  # it has other names in its records
        for entry in run.policies:
            entry.parameters = upgrade_parameters(entry.name, entry.parameters)
    return run


def read_answers(folder: Path) -> list[Answer]:
    """Read the answers of a results folder; a last line that a crash cut short is left out.

    Raises:
        FileError: naming the first line that is not an answer.
    """
    path = folder / ANSWERS
    return list(read_records(path, _adapter(Answer), "an answer", upgrade)) if path.exists() else []


def read(folder: Path) -> Results:
    """Read a run and its answers."""
    return Results(read_run(folder), read_answers(folder), folder)


def read_traces(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of `traces.jsonl`: `policy`, `question`, `seed` and `trace`, a JSON trace.

    A last line that a crash cut short is left out.

    Raises:
        FileError: naming the first line that is not a trace.
    """
    path = folder / TRACES
    if path.exists():
        for line in read_records(path, _adapter(_TraceLine), "the trace of an answer", upgrade):
            yield {name: getattr(line, name) for name in ("policy", "question", "seed", "trace")}
