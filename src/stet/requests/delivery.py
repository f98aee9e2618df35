"""How what requests come to gets from the engine's thread to whoever asked for it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Generator, Sequence
from typing import Self

from stet.core.result import Chunk
from stet.engine.thread import EngineThread
from stet.requests.jobs import Job

Event = tuple[Job, Chunk | None]
"""A piece of a job's answer; None when it has ended, and the rest is `Job.news`."""


def delivered(engine: EngineThread, jobs: Sequence[Job], *, stream: bool) -> Generator[Event]:
    """Run jobs and yield what comes of them, as it comes; closing the iterator cancels the rest.

    Args:
        engine: runs them.
        jobs: new ones.
        stream: whether pieces are wanted, or the ends alone.
    """
    inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
    waiting = len(jobs)
    try:
        _start(engine, jobs, inbox.put, stream)
        while waiting:
            event = inbox.get()
            waiting -= event[1] is None
            yield event
    finally:
        engine.cancel([job.request for job in jobs])


class Events:
    """`delivered` for event loops; leaving the `with` block cancels what has not ended.

    A class and not an asynchronous generator: such a one cannot clean up after itself when its loop
    is closed under it.

    Args:
        engine: runs the jobs.
        jobs: new ones.
        stream: whether pieces are wanted, or the ends alone.
    """

    def __init__(self, engine: EngineThread, jobs: Sequence[Job], *, stream: bool) -> None:
        self._engine = engine
        self._jobs = jobs
        self._stream = stream
        self._waiting = len(jobs)
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()

    def __enter__(self) -> Self:
        """Start the jobs."""
        _start(self._engine, self._jobs, self._post, self._stream)
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel them."""
        self._cancel()

    async def next(self) -> Event | None:
        """What comes next; None when all jobs have ended."""
        if not self._waiting:
            return None
        event = await self._inbox.get()
        self._waiting -= event[1] is None
        return event

    def _post(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, event)
        except RuntimeError:  # the loop was closed, so nobody waits any more
            self._cancel()

    def _cancel(self) -> None:
        self._engine.cancel([job.request for job in self._jobs])


def _start(
    engine: EngineThread, jobs: Sequence[Job], post: Callable[[Event], None], stream: bool
) -> None:
    for job in jobs:
        if job.request.done:  # it failed before it began
            post((job, None))
        else:
            job.listen(post, stream=stream)
    engine.submit([job.request for job in jobs if not job.request.done])
