"""What a calibration learns from: steps with their signals and a label, one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stet.errors import StetError
from stet.parsing import first_problem


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
        return json.dumps(asdict(self), ensure_ascii=False)


def append(path: Path, samples: Iterable[ProblemSample]) -> None:
    """Add problems to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(s.to_json() + "\n" for s in samples))
        file.flush()


def read(path: Path) -> list[ProblemSample]:
    """The problems of a file; a last line that a crash cut short is left out.

    Raises:
        StetError: naming the first line that is something else.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter: Any = TypeAdapter(ProblemSample)
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    samples: list[ProblemSample] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            samples.append(adapter.validate_json(line))
        except ValidationError as error:
            raise StetError(
                f"{path}, line {number}: not a calibration sample "
                f"({first_problem(error, 'the line')})."
            ) from error
    return samples


def steps_of(problems: Iterable[ProblemSample]) -> list[StepSample]:
    """All labelled steps."""
    return [s for p in problems for s in p.steps if s.good is not None]
