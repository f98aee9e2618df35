"""The default executor: chunks one after the other, with a pair of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stet.executors.base import C, Executor, Finished, R, Work

if TYPE_CHECKING:
    from stet.pair import Pair

T = TypeVar("T")


class LocalExecutor(Executor):
    """Runs chunks in their order in this process; each part is handed out as it is made.

    Args:
        pair: stays open when the executor is closed.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def call(self, function: Callable[[Pair], T]) -> T:
        """Call a function with the pair."""
        return function(self.pair)

    def map(self, work: Work[C, R], chunks: Iterable[C]) -> Iterator[Finished[R]]:
        """Run chunks one after the other, see `Executor.map`."""
        prepared = False
        for chunk in chunks:
            if not prepared:
                work.prepare(self.pair)
                prepared = True
            for part in work.run(self.pair, chunk):
                yield Finished([part])

    def costs_of_run(self, path: Path) -> AbstractContextManager[None]:
        """See `Executor.costs_of_run`."""
        return self.pair.costs_of_run(path)

    def keeping_texts(self) -> AbstractContextManager[None]:
        """See `Executor.keeping_texts`."""
        return self.pair.keeping_texts()


def executor_of(where: Pair | Executor) -> Executor:
    """An executor as it is; a pair as the one that runs in this process."""
    return where if isinstance(where, Executor) else LocalExecutor(where)
