"""The options of commands that can run on many machines, and where their chunks are run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli.groups import OptionGroup
from stet.cli.options import ModelOptions, load, make_source
from stet.cli.output import err
from stet.core.errors import OptionError

if TYPE_CHECKING:
    from stet.executors.base import Executor

RAY = "--ray"
HERE = "local"
"""The address that `--ray` alone stands for."""


@dataclass(frozen=True, slots=True)
class ClusterOptions(OptionGroup):
    """Whether chunks are worked on elsewhere, and by how many."""

    panel = "Many machines"

    ray: Annotated[
        str | None,
        typer.Option(
            RAY,
            metavar="[ADDRESS]",
            help="Run on the Ray cluster at this address; without one, on a new one here.",
            show_default=False,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --ray: copies of the pair that work side by side.",
            show_default="one per accelerator, or per machine",
        ),
    ] = None

    def check(self) -> None:
        """Refuse workers without a cluster.

        Raises:
            OptionError: they were asked for so.
        """
        if self.ray is None and self.workers is not None:
            raise OptionError("--workers goes with --ray.")

    @contextmanager
    def open(
        self,
        models: ModelOptions,
        *,
        max_batch: int,
        policies: Iterable[Any] = (),
        compile_default: bool | None = None,
    ) -> Iterator[Executor]:
        """What runs chunks: this process with the pair, or workers that each load one.

        Args:
            models: the pair as the user named it, resolved.
            max_batch: see `stet.cli.options.make_source`.
            policies: see there.
            compile_default: see there.

        Raises:
            StetError: the pair cannot be loaded, or there is no such cluster.
        """
        self.check()
        if self.ray is None:
            from stet.executors.local import LocalExecutor

            pair = load(
                models, max_batch=max_batch, policies=policies, compile_default=compile_default
            )
            yield LocalExecutor(pair)
            return
        models.check_target()
        if models.is_remote:
            raise OptionError("With --ray each worker holds its target; name one that is local.")
        from stet.executors.ray import on_ray

        source = make_source(
            models, max_batch=max_batch, policies=policies, compile_default=compile_default
        )
        status = err.status("Starting workers ...")
        status.start()
        try:
            with on_ray(
                source, self.ray, workers=self.workers, threads=models.threads, tell=_tell
            ) as executor:
                status.stop()
                yield executor
        finally:
            status.stop()


def _tell(sentence: str) -> None:
    err.print(sentence, markup=False, soft_wrap=True)


def with_address(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, with the address where `--ray` is given without one."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        found.append(word)
        if word == "--":
            return [*found, *arguments[place + 1 :]]
        following = arguments[place + 1] if place + 1 < len(arguments) else "-"
        if word == RAY and following.startswith("-"):
            found.append(HERE)
    return found
