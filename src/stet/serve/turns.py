"""Who is decoded next: a bounded queue in which requests take turns."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from stet.serve.errors import ApiError

QUEUE_TIMEOUT = "queue_timeout"
"""The code of the error for a turn that did not come in time."""

_MEMORY = 0.9
"""How much of the mean time of an answer is kept when another one ends."""


@dataclass(eq=False, slots=True)
class Line:
    """The sequences of one HTTP request that wait, in order.

    Attributes:
        begun: sequences of it that have had their turn.
    """

    begun: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque[asyncio.Future[None]])


class Turns:
    """Hands out so many places; requests that wait take turns, whatever number of them each needs.

    A request for a hundred samples does not hold up one for a single answer behind it: of those
    that wait, each is given a place in its turn. Used in one event loop.

    Args:
        places: sequences that are handed to the engine at a time.
        max_waiting: sequences that may wait beside them.
    """

    def __init__(self, places: int, max_waiting: int) -> None:
        self._free = places
        self._most = places + max_waiting
        self._places = places
        self._lines: deque[Line] = deque()
        self._count = 0
        self._seconds = 1.0
        self._closed: ApiError | None = None

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return sum(len(line.waiting) for line in self._lines)

    @property
    def count(self) -> int:
        """Sequences that wait or are decoded."""
        return self._count

    def check(self) -> None:
        """Refuse a request before anything is read of it, where there is no room for any.

        Raises:
            ApiError: the queue is full (429), or the server is shutting down (503).
        """
        if self._closed is not None:
            raise self._closed
        if self._count >= self._most:
            raise self._full()

    def _full(self) -> ApiError:
        return ApiError(
            429,
            f"{self._count} sequences are being decoded or wait already; try later.",
            code="queue_full",
            retry_after=self.retry_after(),
        )

    def retry_after(self) -> int:
        """Seconds after which a place in the queue should be free."""
        rounds = max(self._count - self._most + self._places, 1) / self._places
        return max(1, min(60, math.ceil(rounds * self._seconds)))

    def close(self, error: ApiError) -> None:
        """Refuse all that comes, and all that waits; a request that has begun is finished."""
        self._closed = error
        for line in self._lines:
            if line.begun:
                continue
            for place in line.waiting:
                if not place.done():
                    place.set_exception(error)

    @asynccontextmanager
    async def line(self, count: int) -> AsyncIterator[Line]:
        """Join the queue with all sequences of a request.

        Args:
            count: the sequences; all of them must find room in the queue.

        Raises:
            ApiError: the queue is full (429), or the server is shutting down (503).
        """
        if self._closed is not None:
            raise self._closed
        if self._count + count > self._most:
            if count > self._most:
                raise ApiError(
                    400,
                    f"{count} sequences are more than this server takes at a time ({self._most}); "
                    "ask for fewer.",
                )
            raise self._full()
        line = Line()
        self._count += count
        try:
            yield line
        finally:
            self._count -= count

    @asynccontextmanager
    async def place(self, line: Line, deadline: float) -> AsyncIterator[None]:
        """Wait for the turn of one of a request's sequences, and hold the place.

        Args:
            line: the request's.
            deadline: `time.monotonic()` at which it no longer waits.

        Raises:
            ApiError: the server is shutting down, or the turn did not come in time.
        """
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                await self._take(line)
        except TimeoutError:
            raise ApiError(
                503,
                "The request waited for its turn as long as a request may take; try later.",
                code=QUEUE_TIMEOUT,
                retry_after=self.retry_after(),
            ) from None
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds += (1 - _MEMORY) * (time.monotonic() - began - self._seconds)
            self._free += 1
            self._hand_out()

    async def _take(self, line: Line) -> None:
        if self._closed is not None and not line.begun:
            raise self._closed
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not line.waiting:
            self._lines.append(line)
        line.waiting.append(turn)
        self._hand_out()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._free += 1  # it was given a place in the very moment in which it left
                self._hand_out()
            elif turn in line.waiting:
                self._leave(line, turn)
            raise

    def _leave(self, line: Line, turn: asyncio.Future[None]) -> None:
        line.waiting.remove(turn)
        if not line.waiting:
            self._lines.remove(line)

    def _hand_out(self) -> None:
        while self._free > 0 and self._lines:
            line = self._lines.popleft()
            turn = line.waiting.popleft()
            if line.waiting:
                self._lines.append(line)
            if not turn.done():
                self._free -= 1
                line.begun += 1
                turn.set_result(None)
