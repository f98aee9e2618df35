"""Dynamic batching of questions from many requests."""

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

    Questions that arrive while one batch runs form the next one. No question waits for a batch to
    fill, and batches grow under load. Questions may come from any thread or event loop.

    Args:
        run: answers a batch of questions, in order.
        limit: the largest number of questions in a batch.
        name: the name of the function, as the beginning of an error message.

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
        """Ask questions, and wait for their answers, in order.

        Raises:
            StetError: one could not be answered; questions of other requests are not affected.
        """
        futures = self._submit(questions)
        try:
            return [await asyncio.wrap_future(future) for future in futures]
        finally:
            # Where the request has ended, questions that were not started yet are not run.
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
        """Answer batches until no question is waiting."""
        while True:
            with self._lock:
                count = min(len(self._waiting), self._limit)
                batch = [self._waiting.popleft() for _ in range(count)]
                if not batch:
                    self._working = False
                    return
            self._answer([(q, f) for q, f in batch if f.set_running_or_notify_cancel()])

    def _answer(self, batch: list[tuple[Q, Future[A]]]) -> None:
        """Answer a batch; if that fails, one by one, so that only the faulty questions fail."""
        if not batch:
            return
        try:
            answers = self._run([question for question, _ in batch])
            if len(answers) != len(batch):
                raise StetError(f"{len(answers)} answers came to {len(batch)} questions.")
        except BaseException as error:  # whoever asked waits, also where the function exits
            if len(batch) == 1:
                batch[0][1].set_exception(self._explain(error))
                return
            for one in batch:
                self._answer([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)

    def _explain(self, error: BaseException) -> StetError:
        if isinstance(error, StetError):
            return error
        explained = StetError(failure(self._name, error))
        explained.__cause__ = error
        return explained


def failure(what: str, error: BaseException) -> str:
    """The message that a function or model of the user failed, with the reason."""
    return f"{what} failed ({type(error).__name__}: {error})."
