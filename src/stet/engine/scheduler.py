"""Scheduling of requests: admission, the room they share, who has to wait, and deadlines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from stet.core.errors import CapacityError
from stet.engine.request import Request

Fits = Callable[[Request, Sequence[Request]], bool]
"""Whether there is room for a request beside others."""


class Scheduler:
    """Admits requests in order, each once there is room for all of its rows.

    The first in the queue is never overtaken by a smaller one behind it, so that none starves; a
    request for more rows than there are is admitted once it is alone. Those that were admitted
    before and had to make room go on before others begin.

    Args:
        max_batch: requests at work at a time.
        max_rows: places in each model's cache that they share.
        max_waiting: requests that may queue.
    """

    def __init__(self, max_batch: int, max_rows: int, max_waiting: int) -> None:
        self.max_batch = max_batch
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        """All requests, those at work first; over a copy, so that they may leave meanwhile."""
        return iter((*self._running, *self._waiting))

    @property
    def running(self) -> list[Request]:
        """Requests at work, the newest last, and those that are paused; a copy."""
        return list(self._running)

    @property
    def active(self) -> list[Request]:
        """Requests at work that are not paused, the newest last."""
        return [request for request in self._running if not request.paused]

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def queue(self, request: Request) -> None:
        """Add a request to the end of the queue.

        Raises:
            CapacityError: the queue is full.
        """
        if len(self._waiting) >= self.max_waiting:
            raise CapacityError(f"{self.max_waiting} requests are waiting already; try later.")
        self._waiting.append(request)

    def resume(self, fits: Fits) -> None:
        """Let paused requests go on, the oldest first, for as long as there is room for the next.

        Args:
            fits: whether there is room in the caches for a request beside others.
        """
        for request in self._running:
            if request.paused:
                active = self.active
                if active and not fits(request, active):
                    return
                request.paused = False

    def admit(self, fits: Fits | None) -> Iterator[Request]:
        """Take requests from the queue for as long as there is room for the next one.

        Args:
            fits: as for `resume`; None: there always is.
        """
        while self._waiting and self._has_room(self._waiting[0], fits):
            request = self._waiting.popleft()
            request.started = time.monotonic()
            self._running.append(request)
            yield request

    def remove(self, request: Request) -> None:
        """Remove a request, at work or waiting; one that is neither is ignored."""
        if request in self._running:
            self._running.remove(request)
            request.seconds = time.monotonic() - request.started
        elif request in self._waiting:
            self._waiting.remove(request)

    def expired(self) -> list[Request]:
        """Requests that have passed their deadlines."""
        timed = [request for request in self if request.deadline is not None]
        if not timed:
            return []
        now = time.monotonic()
        return [r for r in timed if r.deadline is not None and now >= r.deadline]

    def _has_room(self, request: Request, fits: Fits | None) -> bool:
        if not self._running:
            return True
        if any(other.paused for other in self._running):
            return False
        taken = sum(other.rows for other in self._running)
        if len(self._running) >= self.max_batch or taken + request.rows > self.max_rows:
            return False
        return fits is None or fits(request, self._running)
