"""Answers to many prompts in their order, also where workers of a cluster write them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stet.cli.chat import ChatOptions, announce, goes_into_chat, template_of
from stet.cli.cluster import ClusterOptions
from stet.cli.generate_options import ServingOptions
from stet.cli.output import out, progress
from stet.core.folders import PROFILE

if TYPE_CHECKING:
    from stet.executors.prompting import Answered, Prompts

CHUNK = 4
"""Prompts of a chunk, as a multiple of those that are decoded together: places are filled again."""

A = TypeVar("A")


class InOrder(Generic[A]):
    """Writes answers in the order of their prompts, each as soon as those before it are there.

    Args:
        write: called with a prompt's index and its answer.
    """

    def __init__(self, write: Callable[[int, A], None]) -> None:
        self._write = write
        self._waiting: dict[int, A] = {}
        self._next = 0

    def add(self, index: int, answer: A) -> None:
        """Take an answer; after one that could not be written, the others are dropped."""
        self._waiting[index] = answer
        try:
            while self._next in self._waiting:
                self._write(self._next, self._waiting.pop(self._next))
                self._next += 1
        except BaseException:
            self._waiting.clear()
            raise

    def add_rest(self) -> None:
        """Write what is there, though something before it is not."""
        for index in sorted(self._waiting):
            self._write(index, self._waiting.pop(index))


def answer_on_cluster(
    cluster: ClusterOptions,
    models: ServingOptions,
    texts: Sequence[str],
    settings: dict[str, Any],
    chat: ChatOptions,
    write: Callable[[int, Answered], None],
    *,
    quiet: bool,
) -> tuple[list[Answered], float]:
    """Answer prompts by workers.

    Args:
        cluster: which workers.
        models: the pair that each of them loads.
        texts: the prompts.
        settings: policy and options of all requests.
        chat: whether and how they become chats.
        write: called with a prompt's index and its answer, in the order of the prompts.
        quiet: show no progress, and nothing about chats.

    Returns:
        The answers in the order of the prompts, and the seconds that it took once workers were
        there.

    Raises:
        StetError: for what concerns all prompts.
    """
    from stet.executors.prompting import Prompting

    how = chat.settings()
    options = {name: value for name, value in settings.items() if name not in ("policy", "seed")}
    found: list[Answered] = []
    with cluster.open(
        models,
        max_batch=min(models.batch, len(texts)),
        policies=[settings["policy"]],
        compile_default=False,  # one worker must not write other texts than the next
    ) as executor:
        in_chat = executor.call(partial(goes_into_chat, in_chat=chat.in_chat, chat=how))
        if in_chat and not quiet:
            announce(executor.call(template_of))
        work = Prompting(settings["policy"], options, how if in_chat else None)
        chunks = _divide(texts, settings, CHUNK * models.batch)
        ordered = InOrder(write)
        # Where answers go to the terminal as they come, a bar would be in the way.
        with (
            tempfile.TemporaryDirectory(prefix="stet-") as folder,
            executor.costs_of_run(Path(folder) / PROFILE),
            progress("Generating", hidden=quiet or out.is_terminal) as show,
        ):
            began = perf_counter()
            try:
                for finished in executor.map(work, chunks):
                    for answered in (one for part in finished.parts for one in part):
                        ordered.add(answered.trace.request, answered)
                        found.append(answered)
                    show(len(found), len(texts))
            finally:
                ordered.add_rest()
            seconds = perf_counter() - began
    return sorted(found, key=lambda answered: answered.trace.request), seconds


def _divide(texts: Sequence[str], settings: dict[str, Any], size: int) -> Iterator[Prompts]:
    """Divide prompts into chunks; each prompt has the seed that it has in one process."""
    from stet.executors.prompting import Prompts
    from stet.requests.seeds import seeds_of

    seeds = seeds_of(settings["seed"], len(texts), sampled=settings["temperature"] > 0)
    for at in range(0, len(texts), size):
        end = at + size
        yield Prompts(at, len(texts), texts[at:end], seeds[at:end])
