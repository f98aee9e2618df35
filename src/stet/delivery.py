"""How what requests come to gets from the engine's thread to whoever asked for it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Generator, Sequence

from stet.engine.thread import EngineThread
from stet.jobs import Job
from stet.result import Chunk

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


async def adelivered(
    engine: EngineThread, jobs: Sequence[Job], *, stream: bool
) -> AsyncGenerator[Event]:
    """`delivered` for event loops."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Event] = asyncio.Queue()
    requests = [job.request for job in jobs]

    def post(event: Event) -> None:
        try:
            loop.call_soon_threadsafe(inbox.put_nowait, event)
        except RuntimeError:  # the loop was closed, so nobody waits any more
            engine.cancel(requests)

    waiting = len(jobs)
    try:
        _start(engine, jobs, post, stream)
        while waiting:
            event = await inbox.get()
            waiting -= event[1] is None
            yield event
    finally:
        engine.cancel(requests)


def _start(
    engine: EngineThread, jobs: Sequence[Job], post: Callable[[Event], None], stream: bool
) -> None:
    for job in jobs:
        if job.request.done:  # it failed before it began
            post((job, None))
        else:
            job.listen(post, stream=stream)
    engine.submit([job.request for job in jobs if not job.request.done])
