"""The engine: runs the operations of all live programs together, round by round."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from stet.core.block import EMPTY
from stet.core.errors import CapacityError, StetError
from stet.core.operations import Await, Draft, Join, Score
from stet.core.sequence import Role, TokenSequence
from stet.core.trace import FinishReason
from stet.engine.drafting import OVERLAP, Drafter, ModelDrafter
from stet.engine.failures import DeviceError, device_error, isolated, raise_device_error
from stet.engine.outside import Outside
from stet.engine.prefill import Prefill
from stet.engine.request import Process, Request, depth_of, sequence_of
from stet.engine.runner import Runner
from stet.engine.scoring import NonFiniteError, score

Op = TypeVar("Op", Draft, Score)


class Engine:
    """Continuous batching: requests join and leave at any round, whatever their policies.

    Each round has two halves, all pending drafts and then all pending scores; a program that was
    sent its draft is scored in the same round, so programs never fall out of step. Not thread-safe:
    whoever calls it holds a lock.

    Args:
        target: the target's runner; None where the target is not here.
        drafter: what drafts; None where only the target is used.
        max_batch: requests at work at a time; further ones queue.
        max_rows: places in a cache that requests share; None: all that the runners have.
        max_waiting: requests that may queue.
        prefill_chunk: tokens of one prompt that a round takes in.
    """

    def __init__(
        self,
        target: Runner | None,
        drafter: Drafter | None,
        *,
        max_batch: int = 16,
        max_rows: int | None = None,
        max_waiting: int = 100_000,
        prefill_chunk: int = 512,
    ) -> None:
        self.drafter = drafter
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self.runners: dict[Role, Runner] = {} if target is None else {"target": target}
        if isinstance(drafter, ModelDrafter):
            self.runners["draft"] = drafter.runner
        self._prefill = Prefill(self.runners, prefill_chunk)
        self._rows = max_rows or min(runner.max_rows for runner in self.runners.values())
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._drafts: list[Process] = []
        self._scores: list[Process] = []
        self._work: deque[tuple[Process, Any]] = deque()
        self._outside: Outside[Process] = Outside()
        self._closed = False
        self.broken: DeviceError | None = None

    def close(self) -> None:
        """End all requests, and the threads that wait or compile for them."""
        self._closed = True
        self.fail_all(StetError("The pair was closed before this request had ended."))
        self._outside.close()
        for runner in self.runners.values():
            runner.stop_compiling()

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._waiting or self._running)

    @property
    def running(self) -> int:
        """Requests at work."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request; it starts in a following round.

        Raises:
            CapacityError: the queue is full.
            StetError: the engine was closed.
        """
        if self._closed:
            raise StetError("The pair was closed; load it anew.")
        if len(self._waiting) >= self.max_waiting:
            raise CapacityError(f"{self.max_waiting} requests are waiting already; try later.")
        request.sequence.release = self._release
        self._waiting.append(request)

    def refuse(self, request: Request, error: StetError) -> None:
        """End a request that was not taken."""
        request.error = error
        request.sequence.close("error")
        self._finish(request)

    def cancel(self, request: Request, reason: FinishReason = "cancelled") -> None:
        """End a request now, with what it has; does nothing if it has ended."""
        if not request.done:
            request.sequence.close(reason)
            self._finish(request)

    def step(self) -> None:
        """One round: every pending draft, then every pending score.

        What goes wrong outside of any single request ends all that are at work, and is their
        `error`. After a device error `broken` is set and nothing can be run any more.
        """
        try:
            if self.broken is None:
                with torch.inference_mode():
                    self._round()
        except Exception as error:
            self.broken = device_error(error) or self.broken
            self.fail_all(self.broken or error)
        if self.broken is not None:
            self.fail_all(self.broken)

    def fail_all(self, error: Exception) -> None:
        """End every request, at work or waiting, with this error."""
        self._work.clear()
        for request in (*self._running, *self._waiting):
            if request.error is None:
                request.error = error
            request.sequence.close("error")
            self._finish(request)

    def _round(self) -> None:
        self._expire()
        self._admit()
        self._outside.collect(self._work, wait=not (self._drafts or self._scores or self._work))
        self._advance()
        worked = self._draft_phase()
        worked |= self._score_phase()
        if not worked and (self._drafts or self._scores) and not self._outside.busy:
            self._break_deadlock()
        self._report()

    # The two halves of a round

    def _draft_phase(self) -> bool:
        pending, self._drafts = self._drafts, []
        if not pending:
            return False
        if self.drafter is None:
            for process in pending:
                self._fail(process, StetError("This program drafts, but no draft was loaded."))
            return True
        ready = pending
        progress = False
        if isinstance(self.drafter, ModelDrafter):
            ready, progress = self._prepare(pending, "draft", OVERLAP)
        self._drafts += [p for p in pending if p not in ready and not p.request.done]
        operations = [(p, p.pending) for p in ready if isinstance(p.pending, Draft)]
        for process, result in self._isolated(operations, self.drafter.run):
            self._send(process, result)
        self._advance()
        return progress or bool(ready)

    def _score_phase(self) -> bool:
        pending, self._scores = self._scores, []
        if not pending:
            return False
        target = self.runners.get("target")
        if target is None:
            error = StetError("This policy has the target read tokens, but the target is remote.")
            for process in pending:
                self._fail(process, error)
            return True
        ready, progress = self._prepare(pending, "target", 1)
        self._scores += [p for p in pending if p not in ready and not p.request.done]
        operations = [(p, p.pending) for p in ready if isinstance(p.pending, Score)]
        for process, result in self._isolated(operations, lambda ops: score(target, ops)):
            if isinstance(result, NonFiniteError):
                self._scrub(process)
            self._send(process, result)
        self._advance()
        return progress or bool(ready)

    def _prepare(self, pending: list[Process], role: Role, keep: int) -> tuple[list[Process], bool]:
        """Bring caches up to all but the last `keep` tokens; returns who is ready."""
        ready: list[Process] = []
        report = self._prefill.run([sequence_of(p) for p in pending], role, keep)
        for process, state in zip(pending, report.states, strict=True):
            if isinstance(state, Exception):
                self._fail(process, state)
            elif state:
                ready.append(process)
        # A sibling's failure ends its whole request.
        ready = [p for p in ready if not p.request.done]
        # Neighbours in the cache are attended together.
        ready.sort(key=lambda process: sequence_of(process).rows[role].index)
        return ready, report.progress

    def _isolated(
        self,
        operations: Sequence[tuple[Process, Op]],
        run: Callable[[list[Op]], Sequence[Any]],
    ) -> list[tuple[Process, Any]]:
        """Run a batch, such that only what is at fault fails."""
        results = isolated([op for _, op in operations], run)
        return [(process, result) for (process, _), result in zip(operations, results, strict=True)]

    # Programs

    def _send(self, process: Process, value: Any) -> None:
        if process.request.done:
            return
        if isinstance(value, Exception):
            self._fail(process, value)
        else:
            process.pending = None
            self._work.append((process, value))

    def _advance(self) -> None:
        """Send results to programs until each waits for a model again; a list, not recursion."""
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
                self._ended(process, stop.value)
                continue
            except Exception as error:
                raise_device_error(error)
                self._fail(process, error)
                continue
            self._start(process, operation)

    def _start(self, process: Process, operation: Any) -> None:
        match operation:
            case Draft(count=0):
                self._work.append((process, EMPTY))
            case Draft():
                process.pending = operation
                self._drafts.append(process)
            case Score():
                process.pending = operation
                self._scores.append(process)
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
                self._outside.start(process, awaitable)
            case _:
                self._fail(process, TypeError(f"a program yielded {operation!r}"))

    def _ended(self, process: Process, value: Any) -> None:
        process.request.processes.discard(process)
        parent = process.parent
        if parent is None:
            self._finish(process.request)
            return
        parent.results[process.place] = value
        parent.open -= 1
        if not parent.open:
            self._work.append((parent, parent.results))

    def _fail(self, process: Process, error: Exception) -> None:
        request = process.request
        if not request.done:
            request.error = error
            request.sequence.close("error")
            self._finish(request)

    def _finish(self, request: Request) -> None:
        """A request leaves: its programs are closed and its rows freed."""
        request.done = True
        request.sequence.close("cancelled")
        # Children first: closing a parent may leave a `with` block that frees their rows.
        for process in sorted(request.processes, key=depth_of, reverse=True):
            try:
                process.program.close()
            except Exception as error:
                request.error = request.error or error
            if isinstance(process.pending, (Draft, Score)):
                self._release(process.pending.sequence)
        self._drafts = [p for p in self._drafts if p.request is not request]
        self._scores = [p for p in self._scores if p.request is not request]
        self._outside.drop(lambda process: process.request is request)
        request.processes.clear()
        self._release(request.sequence)
        if request in self._running:
            self._running.remove(request)
            request.seconds = time.monotonic() - request.started
        elif request in self._waiting:
            self._waiting.remove(request)
        if request.on_end is not None:
            request.on_end(request)

    # Requests

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0]):
            request = self._waiting.popleft()
            request.started = time.monotonic()
            self._running.append(request)
            process = Process(request.program, request)
            request.processes.add(process)
            self._work.append((process, None))

    def _has_room(self, request: Request) -> bool:
        if not self._running:
            return True
        taken = sum(r.rows for r in self._running)
        return len(self._running) < self.max_batch and taken + request.rows <= self._rows

    def _expire(self) -> None:
        deadlines = [r for r in (*self._running, *self._waiting) if r.deadline is not None]
        if deadlines:
            now = time.monotonic()
            for request in deadlines:
                if request.deadline is not None and now >= request.deadline:
                    self.cancel(request, "timeout")

    def _report(self) -> None:
        for request in list(self._running):
            if request.on_growth is None:
                continue
            grown = len(request.sequence.tokens)
            if grown != request.seen:
                request.seen = grown
                try:
                    request.on_growth(request)
                except Exception as error:  # it fails its own request alone
                    request.on_growth = None
                    request.error = request.error or error
                    request.sequence.close("error")
                    self._finish(request)

    def _break_deadlock(self) -> None:
        """Nobody could get a row: the newest request gives its rows back to the others."""
        newest = self._running[-1]
        rows = min(runner.max_rows for runner in self.runners.values())
        error = CapacityError(
            f"No cache rows are left ({rows} in all); raise max_rows or use fewer candidates."
        )
        self._fail(next(iter(newest.processes)), error)

    def _release(self, sequence: TokenSequence) -> None:
        # A device that failed would refuse to move rows, and nothing will be run there again.
        if self.broken is None:
            try:
                for role, row in sequence.rows.items():
                    self.runners[role].release(row)
            except Exception as error:
                # It may tell of it here first. Whoever ends must be told of its end all the same.
                self.broken = device_error(error)
                if self.broken is None:
                    raise
        sequence.rows.clear()

    def _scrub(self, process: Process) -> None:
        """Clean the rows of a sequence with values that are no numbers before they are reused."""
        for role, row in sequence_of(process).rows.items():
            self.runners[role].scrub(row)
