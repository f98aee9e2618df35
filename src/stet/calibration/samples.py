"""What a calibration learns from: steps with their signals and a label, one JSON line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stet.core.files import append_lines, json_line, read_records


@dataclass(frozen=True, slots=True)
class StepSample:
    """One step that the draft proposed.

    Attributes:
        problem: id of the question.
        index: steps before it.
        tokens: its length.
        signals: raw, by name.
        good: the label: the answer could still come out right after it. None where it could not
            before either, so that the step is not to blame.
        kept: whether the collecting policy let it stand.
    """

    problem: str
    index: int
    tokens: int
    signals: dict[str, float]
    good: bool | None
    kept: bool


@dataclass(frozen=True, slots=True)
class ProblemSample:
    """One problem as the collecting policy solved it.

    Attributes:
        problem: id of the question.
        right: whether the answer was.
        steps: the draft's proposals on the way.
    """

    problem: str
    right: bool
    steps: list[StepSample] = field(default_factory=list[StepSample])

    def to_json(self) -> str:
        """As one line."""
        return json_line(asdict(self))


def append(path: Path, samples: Iterable[ProblemSample]) -> None:
    """Add problems to a file."""
    append_lines(path, (s.to_json() for s in samples))


def read(path: Path) -> list[ProblemSample]:
    """The problems of a file; a last line that a crash cut short is left out.

    Raises:
        FileError: naming the first line that is something else.
    """
    from pydantic import TypeAdapter

    if not path.exists():
        return []
    return list(read_records(path, TypeAdapter(ProblemSample), "a calibration sample"))


def steps_of(problems: Iterable[ProblemSample]) -> list[StepSample]:
    """All labelled steps."""
    return [s for p in problems for s in p.steps if s.good is not None]
