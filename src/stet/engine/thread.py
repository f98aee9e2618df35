"""An engine in a thread of its own, and the queue through which other threads use it.

All rounds run in one thread: a request goes on whether or not anything waits for it, no two threads
keep a pool of cores each, and a user's code cannot block other requests. Requests, cancellations
and calls reach the thread through a queue, and no caller waits for a lock that a round holds.
Results of a request are passed to `Request.on_growth` and `Request.on_end`.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch

from stet.core.errors import CapacityError, StetError
from stet.core.model import LoadedModel
from stet.engine.engine import Engine
from stet.engine.request import Request
from stet.engine.waits import Waits

T = TypeVar("T")

ENGINE_THREAD = "stet-engine"
"""The name of the thread in which rounds run."""

_EXIT_SECONDS = 60.0
"""Seconds that the interpreter waits at exit for rounds that are under way."""


class EngineThread:
    """Runs an engine. Every method may be called from any thread; none waits for a round.

    Args:
        engine: used by this thread alone from now on.
        compile_after: seconds of work after which the runners begin to compile their passes.
        after_round: called after every round; it may take as long as one pass.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        compile_after: float = float("inf"),
        after_round: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self._after_round = after_round
        self.seconds_to_compiling = compile_after
        # Its `put` is reentrant: the garbage collector may close a stream, and so cancel a request,
        # in any thread and at any moment.
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Held briefly: when an item is posted, and when the thread ends.
        self._posting = threading.Lock()
        self._process = os.getpid()
        self._closed = False
        self._ended = False
        _live.add(self)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. One for which the queue is too long ends with a `CapacityError`.

        Raises:
            StetError: the pair was closed, its device failed, or this is the engine's own thread.
        """
        self._check()
        if self._inbox.qsize() > self.engine.scheduler.max_waiting:
            raise CapacityError("Too many requests are waiting already; try later.")
        # Taken from the calling thread; torch keeps the number for each thread by itself.
        cores = torch.get_num_threads()
        self._post(lambda: self._submit(requests, cores))

    def cancel(self, requests: Sequence[Request]) -> None:
        """End requests soon, with what they have written; those that have ended are unchanged."""
        open_ones = [request for request in requests if not request.done]
        if open_ones and not self._closed:
            self._inbox.put(lambda: self._cancel(open_ones))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Call a function that needs the engine or its runners, between two rounds.

        Every request waits for as long as it takes.

        Raises:
            StetError: the pair was closed, its device failed, or this is the engine's own thread.
        """
        self._check()
        future: Future[T] = Future()
        cores = torch.get_num_threads()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            _use_threads(cores)
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._post(run)
        return future

    def stop(self) -> None:
        """End all requests and then the thread, soon, without waiting."""
        self._closed = True
        self._inbox.put(_nothing)

    def close(self, timeout: float = _EXIT_SECONDS) -> None:
        """End all requests and the threads that work for them, and wait until they have ended.

        Args:
            timeout: seconds to wait for the round that is under way.
        """
        self.stop()
        thread = self._thread
        if thread is None:
            self._end()
        elif thread is not threading.current_thread():
            thread.join(timeout)

    # In any thread

    def _check(self) -> None:
        if self._closed:
            raise StetError("This pair was closed; load it anew.")
        if self.engine.broken is not None:
            raise StetError(f"This pair cannot be used any more: {self.engine.broken}")
        if self._process != os.getpid():
            raise StetError("This pair was loaded in another process; load it in this one.")
        if threading.current_thread() is self._thread:
            raise StetError(
                "A pair was used from inside one of its own rounds, by a policy or a program; let "
                "it await a coroutine (stet.core.operations.Await) that does so."
            )

    def _post(self, item: Callable[[], None]) -> None:
        with self._posting:
            if not self._ended:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name=ENGINE_THREAD, daemon=True
                    )
                    self._thread.start()
                self._inbox.put(item)
                return
        item()  # the engine is closed and says so

    # In the engine's thread

    def _run(self) -> None:
        waits = Waits()
        on_cpu = all(r.device.type == "cpu" for r in self.engine.runners.values())
        try:
            for runner in self.engine.runners.values():
                if runner.device.type == "cuda":  # each thread has a current device of its own
                    torch.cuda.set_device(runner.device)
            while not self._closed:
                self._take_in(wait=not self.engine.busy)
                if self.engine.busy and not self._closed:
                    began = time.perf_counter()
                    self.engine.step()
                    self._count(time.perf_counter() - began)
                    if self._after_round is not None and self.engine.broken is None:
                        self._after_round()
                    if on_cpu:
                        waits.look()
        finally:
            waits.end()
            self._closed = True
            self._end()

    def _take_in(self, wait: bool) -> None:
        try:
            while True:
                self._inbox.get(block=wait)()
                wait = False
        except queue.Empty:
            return

    def _submit(self, requests: Sequence[Request], cores: int) -> None:
        _use_threads(cores)
        for request in requests:
            try:
                if self.engine.broken is not None:
                    raise StetError(f"This pair cannot be used any more: {self.engine.broken}")
                self.engine.submit(request)
            except StetError as error:
                self.engine.refuse(request, error)

    def _cancel(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.engine.cancel(request)

    def _count(self, seconds: float) -> None:
        self.seconds_to_compiling -= seconds
        if self.seconds_to_compiling < 0:
            self.seconds_to_compiling = float("inf")
            for runner in self.engine.runners.values():
                if gains_by_compiling(runner.model):
                    runner.start_compiling()

    def _end(self) -> None:
        """Close the engine, and end the requests and calls that are left in the queue."""
        self.engine.close()
        left: list[Callable[[], None]] = []
        with self._posting:
            self._ended = True
            while not self._inbox.empty():
                left.append(self._inbox.get())
        for item in left:
            item()


def gains_by_compiling(model: LoadedModel) -> bool:
    """Whether compiled passes of a model are expected to be faster than its own.

    They are padded, and attend by torch. That costs a packed model what it gains: passes whose time
    grows with their true width, and bits that do not depend on it. And Stet's own decoder with its
    attention in C is faster without.
    """
    return not (model.packed or (model.native and model.foreign is None))


def _use_threads(count: int) -> None:
    """Use as many of torch's threads as the thread that asks for the work does."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


_live: weakref.WeakSet[EngineThread] = weakref.WeakSet()


def _nothing() -> None:
    """Do nothing; as an item it wakes the thread up."""


@atexit.register
def _end_all() -> None:
    """End all threads: one inside native code would abort a process that is being torn down."""
    threads = list(_live)
    for thread in threads:
        thread.stop()
    deadline = time.monotonic() + _EXIT_SECONDS
    for thread in threads:
        thread.close(max(deadline - time.monotonic(), 0.0))
