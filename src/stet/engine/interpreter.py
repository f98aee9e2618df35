"""Runs programs: sends results in, and collects the operations that they wait for."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from stet.core.block import EMPTY
from stet.core.operations import Await, Draft, Join, Score
from stet.core.sequence import TokenSequence
from stet.engine.failures import raise_device_error
from stet.engine.outside import Outside
from stet.engine.request import Process, Request, Waiting, depth_of


class Requests(Protocol):
    """Receives the ends and failures of requests; the engine implements it.

    It is passed to each call, not held: an engine without other references is freed at once, and
    its models with it.
    """

    def finish(self, request: Request) -> None:
        """Finish a request whose program has ended."""
        ...

    def fail(self, request: Request, error: Exception) -> None:
        """End a request with an error."""
        ...


class Interpreter:
    """Runs the generators of all live requests. Models are run elsewhere, between two advances.

    Attributes:
        drafts: who waits for the draft.
        scores: who waits for the target.
    """

    def __init__(self) -> None:
        self.drafts: list[Waiting[Draft]] = []
        self.scores: list[Waiting[Score]] = []
        self._work: deque[tuple[Process, Any]] = deque()
        self._outside: Outside[Process] | None = None

    def close(self) -> None:
        """End the thread that awaits things outside the engine."""
        if self._outside is not None:
            self._outside.close()

    @property
    def ready(self) -> bool:
        """Whether anybody waits for a model who is not paused."""
        return any(not w.process.request.paused for w in self.drafts) or any(
            not w.process.request.paused for w in self.scores
        )

    @property
    def awaiting(self) -> bool:
        """Whether any program waits for something outside the engine."""
        return self._outside is not None and self._outside.busy

    def start(self, request: Request) -> None:
        """Begin a request's program at the next advance."""
        process = Process(request.program, request)
        request.processes.add(process)
        self._work.append((process, None))

    def send(self, process: Process, value: Any, requests: Requests) -> None:
        """Send a process the result of its operation at the next advance; an exception fails it."""
        if process.request.done:
            return
        if isinstance(value, Exception):
            requests.fail(process.request, value)
        else:
            process.pending = None
            self._work.append((process, value))

    def collect(self) -> None:
        """Collect results from outside the engine; wait a moment where there is no other work."""
        if self._outside is not None:
            idle = not (self.ready or self._work)
            self._outside.collect(self._work, wait=idle)

    def advance(self, requests: Requests) -> None:
        """Send results to programs until each waits for a model again."""
        while self._work:
            process, value = self._work.popleft()
            if process.request.done:
                continue
            try:
                if isinstance(value, Exception):
                    operation = process.program.throw(value)
                else:
                    operation = process.program.send(value)
            except StopIteration as stop:
                self._return(process, stop.value, requests)
                continue
            except Exception as error:
                raise_device_error(error)
                requests.fail(process.request, error)
                continue
            self._wait_for(process, operation, requests)

    def drop(self, request: Request) -> list[TokenSequence]:
        """Close the programs of a request; return the sequences that may still hold rows."""
        held: list[TokenSequence] = []
        # Children first: closing a parent may leave a `with` block that frees their rows.
        for process in sorted(request.processes, key=depth_of, reverse=True):
            try:
                process.program.close()
            except Exception as error:
                request.error = request.error or error
            if isinstance(process.pending, (Draft, Score)):
                held.append(process.pending.sequence)
        self.drafts = [w for w in self.drafts if w.process.request is not request]
        self.scores = [w for w in self.scores if w.process.request is not request]
        if self._outside is not None:
            self._outside.drop(lambda process: process.request is request)
        request.processes.clear()
        return [*held, request.sequence]

    def forget(self) -> None:
        """Drop all results that were not sent yet."""
        self._work.clear()

    def _wait_for(self, process: Process, operation: Any, requests: Requests) -> None:
        match operation:
            case Draft(count=0):
                self._work.append((process, EMPTY))
            case Draft():
                process.pending = operation
                self.drafts.append(Waiting(process, operation))
            case Score():
                process.pending = operation
                self.scores.append(Waiting(process, operation))
            case Join(programs=programs):
                process.results = [None] * len(programs)
                process.open = len(programs)
                for place, program in enumerate(programs):
                    child = Process(program, process.request, process, place)
                    process.request.processes.add(child)
                    self._work.append((child, None))
                if not programs:
                    self._work.append((process, []))
            case Await(awaitable=awaitable):
                self._outside = self._outside or Outside()
                self._outside.start(process, awaitable)
            case _:
                requests.fail(process.request, TypeError(f"a program yielded {operation!r}"))

    def _return(self, process: Process, value: Any, requests: Requests) -> None:
        """Pass the result of a program that has ended to the process that joined it."""
        process.request.processes.discard(process)
        parent = process.parent
        if parent is None:
            process.request.result = value
            requests.finish(process.request)
            return
        parent.results[process.place] = value
        parent.open -= 1
        if not parent.open:
            self._work.append((parent, parent.results))
