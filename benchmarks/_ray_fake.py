"""Workers that only wait: what a driver with many of them has to do, without any model.

Nothing here imports torch, so that 64 of them fit beside each other on a small machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stet.evaluation.answering import Portion, Turn
from stet.executors.base import Finished
from stet.executors.pool import Backend
from stet.executors.pooled import PooledExecutor

MARK = "QUESTION-ID"
"""What stands in a template for the id of a question."""


@dataclass(frozen=True)
class Template:
    """What a real worker has made of a chunk, to be made again for others.

    Attributes:
        turns: of each contender; their ids of questions are `MARK`.
        seconds: that a worker waits for each chunk.
    """

    turns: dict[str, Turn]
    seconds: float


class Waiting:
    """An actor in the place of one with a pair.

    Args:
        template: what it answers, and when.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self._busy = 0.0

    def load(self) -> dict[str, str]:
        """Load nothing."""
        return {}

    def run(self, key: int, fetch: Any, chunk: Portion, conditions: Any) -> Finished[Turn]:
        """Wait as long as a pair would work, and answer what one has answered."""
        del key, fetch, conditions
        time.sleep(self._template.seconds)
        turns = [self._turn(label, chunk) for label in chunk.labels]
        return Finished(turns, {"torch": "torch" in sys.modules})

    def _turn(self, label: str, chunk: Portion) -> Turn:
        made = self._template.turns[label]
        answers = [
            replace(answer, question=question.id, chunk=chunk.number)
            for answer, question in zip(made.answers, chunk.questions, strict=False)
        ]
        traces = [
            line.replace(MARK, question.id)
            for line, question in zip(made.traces, chunk.questions, strict=False)
        ]
        return Turn(answers, traces)


class Simulated(PooledExecutor):
    """An executor whose workers only wait; what needs a pair is done by one of this process.

    Args:
        backend: starts the workers.
        workers: how many.
        call: calls a function with the pair of this process.
    """

    def __init__(
        self, backend: Backend, workers: int, call: Callable[[Callable[[Any], Any]], Any]
    ) -> None:
        super().__init__(backend, workers, threads=1)
        self._call = call

    def call(self, function: Callable[[Any], Any]) -> Any:
        """Call a function with the pair of this process."""
        return self._call(function)

    @contextmanager
    def costs_of_run(self, path: Path) -> Iterator[None]:
        """Waiting costs what it costs."""
        del path
        yield
