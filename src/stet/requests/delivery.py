"""Delivery of results from the engine's thread to the caller."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, Self, TypeVar

from stet.core.result import Chunk
from stet.engine.thread import EngineThread
from stet.requests.jobs import Job

J = TypeVar("J", bound=Job[Any])

Event = tuple[J, Chunk | None]
"""A piece of a job's answer; None when the job has ended, and the rest is `Job.news`."""


def deliver(engine: EngineThread, jobs: Sequence[J], *, stream: bool) -> Generator[Event[J]]:
    """Run jobs and yield their events as they come; closing the iterator cancels the rest.

    Args:
        engine: the thread that runs the jobs.
        jobs: new jobs.
        stream: whether to yield pieces of answers, or only the ends of jobs.
    """
    inbox: queue.SimpleQueue[Event[J]] = queue.SimpleQueue()
    waiting = len(jobs)
    try:
        _start(engine, jobs, inbox.put, stream)
        while waiting:
            event = inbox.get()
            waiting -= event[1] is None
            yield event
    finally:
        engine.cancel([job.request for job in jobs])


class Events(Generic[J]):
    """Events of jobs in an event loop; leaving the `with` block cancels jobs that have not ended.

    A class and not an asynchronous generator, since a generator cannot clean up when its loop is
    closed while it waits.

    Args:
        engine: the thread that runs the jobs.
        jobs: new jobs.
        stream: whether to deliver pieces of answers, or only the ends of jobs.
    """

    def __init__(self, engine: EngineThread, jobs: Sequence[J], *, stream: bool) -> None:
        self._engine = engine
        self._jobs = jobs
        self._stream = stream
        self._waiting = len(jobs)
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Event[J]] = asyncio.Queue()

    def __enter__(self) -> Self:
        """Start the jobs."""
        _start(self._engine, self._jobs, self._post, self._stream)
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel the jobs that have not ended."""
        self._cancel()

    async def next(self) -> Event[J] | None:
        """Wait for the next event; None when all jobs have ended."""
        if not self._waiting:
            return None
        event = await self._inbox.get()
        self._waiting -= event[1] is None
        return event

    def _post(self, event: Event[J]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, event)
        except RuntimeError:  # the loop was closed, so nobody waits any more
            self._cancel()

    def _cancel(self) -> None:
        self._engine.cancel([job.request for job in self._jobs])


async def finish(engine: EngineThread, jobs: Sequence[Job[Any]]) -> None:
    """Run jobs to their ends, in an event loop; cancelling the task cancels them."""
    with Events(engine, jobs, stream=False) as events:
        while await events.next():
            pass


def _start(
    engine: EngineThread, jobs: Sequence[J], post: Callable[[Event[J]], None], stream: bool
) -> None:
    for job in jobs:
        if job.request.done:  # it failed before it began
            post((job, None))
        else:
            job.listen(post, stream=stream)
    engine.submit([job.request for job in jobs if not job.request.done])
