"""Running a request's sequences, side by side and each in its turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from stet.core.errors import StetError
from stet.core.result import Chunk, Result, TextReading
from stet.pair import Pair
from stet.serve.errors import ApiError
from stet.serve.metrics import Metrics
from stet.serve.turns import QUEUE_TIMEOUT, Line, Turns
from stet.serve.work import Prompt, Work

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """A piece of one of a request's answers.

    Attributes:
        index: of the sequence: prompts in order, the answers to each side by side.
        chunk: the piece.
    """

    index: int
    chunk: Chunk


class Runs:
    """Runs requests on a pair.

    Args:
        pair: the models.
        turns: who is decoded next.
        metrics: are told of every sequence that has ended.
    """

    def __init__(self, pair: Pair, turns: Turns, metrics: Metrics) -> None:
        self.pair = pair
        self.turns = turns
        self.metrics = metrics
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: ApiError | None = None

    def fail_all(self, error: ApiError) -> None:
        """End everything that is at work; its clients are told this error."""
        self._failed = error
        for task in self._tasks:
            task.cancel()

    def line(self, work: Work) -> AbstractAsyncContextManager[Line]:
        """The queue, joined for all that a request needs: its prompts read, its answers written.

        Raises:
            ApiError: there is no room in the queue.
        """
        return self.turns.line(max(work.count if work.writes else 0, len(work.prompts)))

    async def readings(self, work: Work, line: Line) -> list[TextReading | None]:
        """What the target says of each prompt, where the response is to say so.

        Raises:
            ApiError: a turn did not come, or the reading did not end, in time.
            StetError: the first prompt that cannot be read.
        """
        if work.reads is None:
            return [None] * len(work.prompts)
        top = work.reads

        async def read(index: int) -> TextReading | None:
            async with self._place(work, line):
                given = work.prompts[index].given
                try:
                    reading = await self.pair.aread(
                        given, top_logprobs=top, timeout=work.seconds_left()
                    )
                except StetError as error:
                    if work.seconds_left():
                        raise
                    raise late_reading() from error
                assert isinstance(reading, TextReading)
                if not work.writes:
                    self.metrics.was_read(work, len(reading.token_ids))
                return reading

        return await self._together(len(work.prompts), read)

    async def whole(self, work: Work, line: Line) -> list[Result]:
        """All answers, in order; cancelling the task cancels them.

        Raises:
            ApiError: no turn came in time.
            StetError: the first sequence that failed; the others are cancelled.
        """
        return await self._together(work.count, lambda index: self._one(work, line, index))

    @asynccontextmanager
    async def pieces(self, work: Work, line: Line) -> AsyncIterator[AsyncIterator[Piece]]:
        """Pieces of all answers as they come; leaving the context cancels what is not done."""
        inbox: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

        async def feed(index: int) -> None:
            try:
                await self._told(self._feed(work, line, index, inbox))
                inbox.put_nowait(None)
            except Exception as error:
                inbox.put_nowait(error)

        tasks = [self._watched(asyncio.create_task(self._told(feed(i)))) for i in range(work.count)]
        try:
            yield _read(inbox, work.count)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def prompt_of(self, work: Work, index: int) -> Prompt:
        """The prompt of a sequence."""
        return work.prompts[index // work.choices]

    async def _together(self, count: int, run: Callable[[int], Coroutine[Any, Any, T]]) -> list[T]:
        """Run coroutines side by side; the first error ends all."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [self._watched(group.create_task(self._told(run(i)))) for i in range(count)]
        except ExceptionGroup as errors:
            failed = errors.exceptions[0]
        else:
            return [task.result() for task in tasks]
        raise failed

    def _watched(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _told(self, run: Coroutine[Any, Any, T]) -> T:
        """Run something; where the server ends it, with the error that its client is told."""
        try:
            return await run
        except asyncio.CancelledError:
            if self._failed is None:
                raise
        raise self._failed

    @asynccontextmanager
    async def _place(self, work: Work, line: Line) -> AsyncIterator[None]:
        """The turn of a sequence.

        Where others of its request have had theirs and its own does not come in time, it goes on
        without one: it has no time left, and ends with what it has.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.turns.place(line, work.deadline))
            except ApiError as error:
                if error.code != QUEUE_TIMEOUT or not line.begun:
                    raise
            yield

    async def _one(self, work: Work, line: Line, index: int) -> Result:
        async with self._place(work, line):
            waited = time.monotonic() - work.arrived
            try:
                result = await self.pair.agenerate(
                    self.prompt_of(work, index).given, work.policy, **self._options(work, index)
                )
            except asyncio.CancelledError:
                self.metrics.cancelled(work, 0)
                raise
            except StetError as error:
                self.metrics.failed(work, error)
                raise
            assert isinstance(result, Result)
            self._ended(work, result, waited)
            return result

    async def _feed(
        self, work: Work, line: Line, index: int, inbox: asyncio.Queue[Piece | Exception | None]
    ) -> None:
        async with self._place(work, line):
            waited = time.monotonic() - work.arrived
            last: float | None = None
            written = 0
            try:
                async for chunk in self.pair.astream(
                    self.prompt_of(work, index).given, work.policy, **self._options(work, index)
                ):
                    now = time.monotonic()
                    if last is not None:
                        self.metrics.piece(len(chunk.tokens), now - last)
                    last = now
                    written += len(chunk.tokens)
                    result = chunk.result
                    if result is not None and result.error is not None:
                        continue  # the error itself comes next
                    if result is not None:
                        self._ended(work, result, waited)
                    inbox.put_nowait(Piece(index, chunk))
            except asyncio.CancelledError:
                self.metrics.cancelled(work, written)
                raise
            except Exception as error:
                self.metrics.failed(work, error)
                raise

    def _ended(self, work: Work, result: Result, waited: float) -> None:
        """Count an answer; it waited here before the engine, which knows but its own queue."""
        result.queued_seconds += waited
        self.metrics.ended(work, result)

    def _options(self, work: Work, index: int) -> dict[str, Any]:
        return {**work.options, "seed": work.seed_of(index), "timeout": work.seconds_left()}


def late_reading() -> ApiError:
    """The error for a prompt that was not read in the time that a request may take."""
    return ApiError(
        503,
        "The prompt was not read in the time that a request may take; shorten it, or try later.",
        code="timeout",
        retry_after=1,
    )


async def _read(inbox: asyncio.Queue[Piece | Exception | None], count: int) -> AsyncIterator[Piece]:
    while count:
        item = await inbox.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            count -= 1
        else:
            yield item
