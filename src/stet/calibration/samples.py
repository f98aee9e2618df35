"""The samples of a calibration: steps with their signals and labels, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stet.core.reading import read_records
from stet.core.writing import append_lines, json_line


@dataclass(frozen=True, slots=True)
class StepSample:
    """A step that the draft proposed.

    Attributes:
        problem: id of the question.
        index: number of steps before it.
        tokens: its number of tokens.
        signals: raw signals, by name.
        good: the label: whether a right answer can be reached after it. None where it could not be
            reached before either.
        kept: whether the collecting policy accepted it.
        saves: whether a right answer can be reached after it and could not before.
    """

    problem: str
    index: int
    tokens: int
    signals: dict[str, float]
    good: bool | None
    kept: bool
    saves: bool = False


@dataclass(frozen=True, slots=True)
class ProblemSample:
    """A problem as the collecting policy solved it.

    Attributes:
        problem: id of the question.
        right: whether the answer is right.
        steps: the steps that the draft proposed.
    """

    problem: str
    right: bool
    steps: list[StepSample] = field(default_factory=list[StepSample])

    def to_json(self) -> str:
        """The sample as one line of JSON."""
        return json_line(asdict(self))


def append(path: Path, samples: Iterable[ProblemSample]) -> None:
    """Append samples to a file."""
    append_lines(path, (s.to_json() for s in samples))


def read(path: Path) -> list[ProblemSample]:
    """Read the samples of a file; an incomplete last line, as after a crash, is ignored.

    Raises:
        FileError: a line is no sample; the message names the first one.
    """
    from pydantic import TypeAdapter

    if not path.exists():
        return []
    return list(read_records(path, TypeAdapter(ProblemSample), "a calibration sample"))


def steps_of(problems: Iterable[ProblemSample]) -> list[StepSample]:
    """All steps of the problems that have a label."""
    return [s for p in problems for s in p.steps if s.good is not None]
