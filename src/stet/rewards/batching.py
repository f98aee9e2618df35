"""Questions of many requests, answered in batches that form by themselves."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from stet.core.errors import OptionError, StetError

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Runs a function on batches in a thread of its own.

    While one batch runs, what arrives waits and makes up the next: nobody waits for a batch to
    fill, and under load batches grow by themselves. Any thread or event loop may ask.

    Args:
        run: answers a batch of questions, in order.
        limit: the most questions of a batch.
        name: what answers, as the beginning of a sentence.

    Raises:
        OptionError: the limit is not positive.
    """

    def __init__(self, run: Callable[[list[Q]], Sequence[A]], limit: int, name: str) -> None:
        if limit < 1:
            raise OptionError(f"max_batch is {limit}; it must be at least 1.")
        self._run = run
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Q, Future[A]]] = deque()
        self._working = False
        self._pool = ThreadPoolExecutor(1, "stet-reward")

    async def ask(self, questions: Sequence[Q]) -> list[A]:
        """The answer to each question.

        Raises:
            StetError: one could not be answered; questions of others are not touched by that.
        """
        futures = self._submit(questions)
        try:
            return [await asyncio.wrap_future(future) for future in futures]
        finally:
            # Of a request that has ended, what was not begun yet is not run.
            for future in futures:
                future.cancel()

    def _submit(self, questions: Sequence[Q]) -> list[Future[A]]:
        futures: list[Future[A]] = [Future() for _ in questions]
        with self._lock:
            self._waiting.extend(zip(questions, futures, strict=True))
            if not self._working:
                self._working = True
                self._pool.submit(self._work)
        return futures

    def _work(self) -> None:
        """Answer until nobody waits."""
        while True:
            with self._lock:
                count = min(len(self._waiting), self._limit)
                batch = [self._waiting.popleft() for _ in range(count)]
                if not batch:
                    self._working = False
                    return
            self._answer([(q, f) for q, f in batch if f.set_running_or_notify_cancel()])

    def _answer(self, batch: list[tuple[Q, Future[A]]]) -> None:
        """Answer a batch; if that fails, one by one, so that only the guilty one fails."""
        if not batch:
            return
        try:
            answers = self._run([question for question, _ in batch])
            if len(answers) != len(batch):
                raise StetError(f"{len(answers)} answers came to {len(batch)} questions.")
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(self._explained(error))
                return
            for one in batch:
                self._answer([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)

    def _explained(self, error: Exception) -> StetError:
        if isinstance(error, StetError):
            return error
        explained = StetError(failure(self._name, error))
        explained.__cause__ = error
        return explained


def failure(what: str, error: Exception) -> str:
    """That something of a user's failed, and why."""
    return f"{what} failed ({type(error).__name__}: {error})."
