"""The interface of an executor: work in chunks, each run as a whole where a pair is.

What drives the work (a comparison, a calibration, a training) says what is done with a chunk and
writes what comes of it; an executor says where. Without Ray that is this process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from stet.pair import Pair

C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T")


class Work(ABC, Generic[C, R]):
    """What is done with each of many chunks.

    It may be sent to another process, so it holds settings and no pair. What it makes of a chunk
    must follow from the chunk alone: not from other chunks, nor from how often it was begun.
    """

    def prepare(self, pair: Pair) -> None:
        """Called once for each pair, before its first chunk."""

    @abstractmethod
    def run(self, pair: Pair, chunk: C) -> Iterator[R]:
        """Work on a chunk; yields the parts of what comes of it, one after the other."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[R]):
    """What has come of a chunk, or of a part of it where parts are handed out as they are made.

    Attributes:
        parts: what the work has yielded.
        machine: the worker it was made by, and its machine; None in this process.
    """

    parts: list[R]
    machine: dict[str, Any] | None = None


class Executor(ABC):
    """Runs work where a pair is. Used by one thread; leaving a `with` block closes it."""

    @abstractmethod
    def call(self, function: Callable[[Pair], T]) -> T:
        """Call a function with a pair, and return what it returns.

        Args:
            function: may be sent to another process, as its result is.
        """

    @abstractmethod
    def map(self, work: Work[C, R], chunks: Iterable[C]) -> Iterator[Finished[R]]:
        """Run chunks; what comes of them is yielded in the order in which it is finished.

        Chunks are taken from the iterable as they are needed, and no more are under way than the
        workers have hands for.

        One `map` or `call` at a time: the iterator is taken to its end, or closed, before the next.

        Raises:
            StetError: what the work raises of this kind, and, once all others are done, where a
                chunk could not be finished.
        """

    @abstractmethod
    def costs_of_run(self, path: Path) -> AbstractContextManager[None]:
        """Inside the `with` block, all pairs use the costs of passes that a run began with.

        Args:
            path: the run's file, see `stet.pair.Pair.costs_of_run`.
        """

    @abstractmethod
    def keeping_texts(self) -> AbstractContextManager[None]:
        """Inside the `with` block, see `stet.pair.Pair.keeping_texts`."""

    def close(self) -> None:  # noqa: B027  # nothing to end where there are no workers
        """End the workers, if there are any."""

    def __enter__(self) -> Self:
        """The executor; leaving the `with` block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, as `close` does."""
        self.close()


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What is recorded of a pair.

    Attributes:
        fingerprint: what identifies it for policies that are fitted to it.
        target: name and revision of the target.
        draft: the same of the draft; None for prompt lookup.
        difference: how the models' tokenizers differ; None where they are the same.
    """

    fingerprint: str
    target: dict[str, Any]
    draft: dict[str, Any] | None
    difference: str | None


def facts_of(pair: Pair) -> PairFacts:
    """What is recorded of a pair; to be called by an executor."""
    draft = None if pair.draft is None else pair.draft.identity
    return PairFacts(pair.fingerprint, pair.target.identity, draft, pair.difference)
