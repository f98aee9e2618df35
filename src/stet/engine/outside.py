"""Waiting for things outside the engine: a remote target, a reward model."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Generic, TypeVar

from stet.core.errors import StetError

W = TypeVar("W")


class Outside(Generic[W]):
    """Runs awaitables on an event loop of their own thread, started when first needed."""

    def __init__(self) -> None:
        self._pending: dict[Future[Any], W] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is awaited."""
        return bool(self._pending)

    def start(self, waiter: W, awaitable: Awaitable[Any]) -> None:
        """Begin to await something on behalf of `waiter`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run, args=(self._loop,), name="stet-await", daemon=True
            )
            self._thread.start()
        self._pending[asyncio.run_coroutine_threadsafe(_await(awaitable), self._loop)] = waiter

    def collect(self, into: deque[tuple[W, Any]], wait: bool) -> None:
        """Append what has arrived, errors included, as (waiter, value).

        Args:
            into: receives the results.
            wait: there is no other work, so wait a moment for the first result.
        """
        if self._pending:
            for future in self._done(wait):
                waiter = self._pending.pop(future)
                if future.cancelled():
                    into.append((waiter, StetError("What the program awaited was cancelled.")))
                    continue
                error = future.exception()
                into.append((waiter, future.result() if error is None else error))

    def _done(self, patient: bool) -> set[Future[Any]]:
        # With a timeout, so that a deadline or a cancellation is noticed, too.
        return wait(self._pending, 0.05 if patient else 0, FIRST_COMPLETED).done

    def drop(self, unwanted: Callable[[W], bool]) -> None:
        """Cancel what unwanted waiters await."""
        for future in [f for f, waiter in self._pending.items() if unwanted(waiter)]:
            del self._pending[future]
            future.cancel()

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what is awaited and end the thread.

        Args:
            timeout: seconds to wait for it.
        """
        self.drop(lambda _: True)
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(timeout)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_drain())
    loop.close()


async def _drain() -> None:
    """Wait until cancelled tasks, and tasks that close connections, have ended."""
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=1.0)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
