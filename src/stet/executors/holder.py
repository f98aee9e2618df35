"""What a worker's process does: it loads a pair by itself, and works on the chunks it is sent."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.core.errors import StetError
from stet.core.folders import PROFILE
from stet.executors.base import Finished, Work
from stet.executors.source import PairSource

if TYPE_CHECKING:
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what the workers of a run work, all of them alike.

    Attributes:
        threads: threads of a CPU; None: as they are.
        profile: the run's costs of passes, as its file holds them; None: there is no run.
        keep_texts: see `stet.pair.Pair.keeping_texts`.
    """

    threads: int | None = None
    profile: str | None = None
    keep_texts: bool = False


class Holder:
    """The pair of a worker, and what it is sent; one thing at a time.

    Args:
        source: what the pair is loaded from.
    """

    def __init__(self, source: PairSource) -> None:
        self._source = source
        self._pair: Pair | None = None
        self._machine: dict[str, Any] = {}
        self._conditions = Conditions()
        self._entered = ExitStack()
        self._work: tuple[int, Work[Any, Any]] | None = None

    def load(self) -> dict[str, str]:
        """Load the pair; returns the versions of what it runs with.

        Raises:
            StetError: it cannot be loaded.
        """
        from stet.core.machine import machine, versions

        self._pair = self._source.load_elsewhere()
        self._machine = {"worker": uuid.uuid4().hex[:8], **machine()}
        return versions()

    def share(self, cores: int) -> int:
        """Choose the threads for a share of the machine's cores; returns how many these are."""
        from stet.executors.threads import share_threads

        return share_threads(self._loaded, cores)

    def measure(self, threads: int | None, profile: str | None) -> str | None:
        """Measure what passes cost, unless a run's profile says so.

        Args:
            threads: see `Conditions`.
            profile: the run's profile so far; None: there is none yet.

        Returns:
            The profile with these costs; None where there is nothing to measure.
        """
        self._enter(Conditions(threads))
        with tempfile.TemporaryDirectory(prefix="stet-") as folder:
            path = Path(folder) / PROFILE
            if profile is not None:
                path.write_text(profile, encoding="utf-8")
            with self._loaded.costs_of_run(path):
                if self._loaded.profile_path is None:
                    return profile  # a target behind an endpoint has no passes
                _ = self._loaded.costs
            return path.read_text(encoding="utf-8")

    def call(self, function: Callable[[Pair], Any], conditions: Conditions) -> Any:
        """Call a function with the pair.

        Raises:
            StetError: what the function raises of this kind.
        """
        self._enter(conditions)
        return _raised_alone(lambda: function(self._loaded))

    def run(
        self, key: int, fetch: Callable[[], Work[Any, Any]], chunk: Any, conditions: Conditions
    ) -> Finished[Any]:
        """Work on a chunk.

        Args:
            key: tells one work from another.
            fetch: hands out the work, which is fetched once.
            chunk: the chunk.
            conditions: under what.

        Raises:
            StetError: what the work raises of this kind.
        """
        self._enter(conditions)
        pair = self._loaded
        if self._work is None or self._work[0] != key:
            work = fetch()
            _raised_alone(lambda: work.prepare(pair))
            self._work = key, work
        work = self._work[1]
        parts = _raised_alone(lambda: list(work.run(pair, chunk)))
        return Finished(parts, {**self._machine, **_threads()})

    @property
    def _loaded(self) -> Pair:
        assert self._pair is not None, "a worker is told to load its pair first"
        return self._pair

    def _enter(self, conditions: Conditions) -> None:
        """Leave the conditions of before, where these are others, and enter these."""
        if conditions == self._conditions:
            return
        import torch

        pair = self._loaded
        self._entered.close()
        self._entered = ExitStack()
        self._work = None  # it was warmed up under others
        self._conditions = conditions
        if conditions.threads is not None:
            torch.set_num_threads(conditions.threads)
        if conditions.profile is not None:
            folder = self._entered.enter_context(tempfile.TemporaryDirectory(prefix="stet-"))
            path = Path(folder) / PROFILE
            path.write_text(conditions.profile, encoding="utf-8")
            self._entered.enter_context(pair.costs_of_run(path))
        if conditions.keep_texts:
            self._entered.enter_context(pair.keeping_texts())


def _threads() -> dict[str, int]:
    import torch

    return {"threads": torch.get_num_threads()}


def _raised_alone(function: Callable[[], Any]) -> Any:
    """Call a function; of an error that it raises only the sentence leaves the process."""
    try:
        return function()
    except StetError as error:
        error.result = None  # it may hold what cannot be sent
        raise
