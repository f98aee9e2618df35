"""The executor of many workers: each has a pair of its own, and a chunk is one worker's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stet.core.errors import StetError
from stet.core.reading import read_text
from stet.core.writing import write_text
from stet.executors.base import C, Executor, Finished, R, Work
from stet.executors.holder import Conditions
from stet.executors.pool import Backend, Pool

if TYPE_CHECKING:
    from stet.pair import Pair

T = TypeVar("T")


class PooledExecutor(Executor):
    """Sends chunks to workers; what comes of a chunk comes back whole, and the caller writes it.

    All workers run with as many threads, by the same versions and under the same costs of passes,
    so that what comes of a chunk does not depend on who works on it.

    Args:
        backend: starts and reaches the workers.
        workers: how many.
        cores: the share of a machine's cores that each has.
        threads: threads of each; None: as many of its cores as are fastest.
        tell: called with a sentence when a worker has died.
    """

    def __init__(
        self,
        backend: Backend,
        workers: int,
        *,
        cores: int = 1,
        threads: int | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.workers = workers
        self._backend = backend
        self._versions: dict[str, str] | None = None
        self._keys = count()
        self._pool = Pool(backend, workers, accept=self._check_versions, tell=tell)
        if threads is None:
            threads = self._pool.call("share", cores)
        self._conditions = Conditions(threads)

    def call(self, function: Callable[[Pair], T]) -> T:
        """Call a function with the pair of a worker."""
        found: T = self._pool.call("call", function, self._conditions)
        return found

    def map(self, work: Work[C, R], chunks: Iterable[C]) -> Iterator[Finished[R]]:
        """Run chunks on all workers, see `Executor.map`."""
        key, shared, conditions = next(self._keys), self._backend.share(work), self._conditions
        orders = ((key, shared, chunk, conditions) for chunk in chunks)
        yield from self._pool.map("run", orders)

    @contextmanager
    def costs_of_run(self, path: Path) -> Iterator[None]:
        """See `Executor.costs_of_run`; one worker measures what the file does not hold."""
        outer = self._conditions
        there = read_text(path) if path.exists() else None
        # A run within another begins with the costs of that one.
        known = outer.profile if there is None else there
        profile: str | None = self._pool.call("measure", outer.threads, known)
        if profile is not None and profile != there:
            write_text(path, profile)
        with self._under(replace(outer, profile=profile)):
            yield

    @contextmanager
    def keeping_texts(self) -> Iterator[None]:
        """See `Executor.keeping_texts`."""
        with self._under(replace(self._conditions, keep_texts=True)):
            yield

    def close(self) -> None:
        """End all workers."""
        self._pool.close()

    @contextmanager
    def _under(self, conditions: Conditions) -> Iterator[None]:
        outer, self._conditions = self._conditions, conditions
        try:
            yield
        finally:
            self._conditions = outer

    def _check_versions(self, found: Any) -> None:
        """Refuse a worker that runs by other versions than those before it.

        Raises:
            StetError: naming the first that differs.
        """
        known = self._versions = self._versions or dict(found)
        for name in sorted({*known, *found}):
            if known.get(name) != found.get(name):
                raise StetError(
                    f"One worker has {name} {known.get(name)}, another has {found.get(name)}: "
                    "answers may differ by that; install the same versions on all machines."
                )
