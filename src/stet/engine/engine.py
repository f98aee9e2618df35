"""The engine: runs the operations of all live programs together, round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from stet.core.block import EMPTY, Block
from stet.core.errors import CapacityError, StetError
from stet.core.operations import Draft, Score
from stet.core.row import PAGE
from stet.core.sequence import Role, TokenSequence
from stet.core.trace import FinishReason
from stet.engine.costs import Costs
from stet.engine.drafting import OVERLAP, Drafter, ModelDrafter
from stet.engine.failures import DeviceError, device_error, isolate
from stet.engine.interpreter import Interpreter
from stet.engine.lengths import fit_blocks
from stet.engine.outcome import NonFiniteError
from stet.engine.prefill import CHUNK, SHARED_CHUNKS, Prefill
from stet.engine.request import Op, Request, Waiting
from stet.engine.room import Room
from stet.engine.round_times import RoundTimes
from stet.engine.runner import Runner
from stet.engine.scheduler import Scheduler
from stet.engine.scoring import positions, score


class Engine:
    """Continuous batching: requests join and leave at any round, whatever their policies.

    Each round has two halves, all pending drafts and then all pending scores; a program that was
    sent its draft is scored in the same round, so programs never fall out of step. Not thread-safe:
    one thread alone calls it (`stet.engine.thread`).

    Args:
        target: the target's runner; None where the target is remote.
        drafter: drafts blocks; None where only the target is used.
        max_batch: requests at work at a time; further ones queue.
        max_rows: places in a cache that requests share; None: all that the runners have.
        max_waiting: requests that may queue.
        prefill_chunk: tokens of one prompt that a round reads; of prompts together, and of texts
            whose log-probabilities are asked for, it reads two chunks.
        spare_pages: pages of each cache that requests leave free, for measuring costs.

    Attributes:
        runners: the runners of the loaded models, by role.
        scheduler: decides which requests are at work.
        preempted: how many times a request had to give its places in the caches to others.
        broken: the error of a device that failed; nothing can be run any more.
        costs: returns the seconds of passes, by which blocks are fitted to a full round; None where
            they are left as asked.
    """

    def __init__(
        self,
        target: Runner | None,
        drafter: Drafter | None,
        *,
        max_batch: int = 16,
        max_rows: int | None = None,
        max_waiting: int = 100_000,
        prefill_chunk: int = CHUNK,
        spare_pages: int = 0,
    ) -> None:
        self.drafter = drafter
        self.runners: dict[Role, Runner] = {} if target is None else {"target": target}
        if isinstance(drafter, ModelDrafter):
            self.runners["draft"] = drafter.runner
        rows = max_rows or min(runner.max_rows for runner in self.runners.values())
        self.scheduler = Scheduler(max_batch, rows, max_waiting)
        self.preempted = 0
        self.broken: DeviceError | None = None
        self.costs: Callable[[], Costs | None] = _unknown
        self._times = RoundTimes()
        self._prefill = Prefill(self.runners, prefill_chunk)
        self._texts = SHARED_CHUNKS * prefill_chunk
        scarce = any(runner.is_scarce for runner in self.runners.values())
        self._room = Room(self.runners, spare_pages) if scarce else None
        self._spare_pages = spare_pages
        self._interpreter = Interpreter()
        self._closed = False

    def close(self) -> None:
        """End all requests, and the threads that await or compile for them."""
        self._closed = True
        self.fail_all(StetError("The pair was closed before this request had ended."))
        self._interpreter.close()
        for runner in self.runners.values():
            runner.stop_compiling()

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self.waiting or self.running)

    @property
    def running(self) -> int:
        """Requests at work."""
        return len(self.scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self.scheduler.waiting

    def submit(self, request: Request) -> None:
        """Queue a request; it starts in a following round.

        Raises:
            CapacityError: the queue is full.
            StetError: the engine was closed.
        """
        if self._closed:
            raise StetError("The pair was closed; load it anew.")
        self.scheduler.queue(request)
        request.sequence.release = self._release

    def refuse(self, request: Request, error: StetError) -> None:
        """End a request that was not queued."""
        request.error = error
        request.sequence.close("error")
        self.finish(request)

    def cancel(self, request: Request, reason: FinishReason = "cancelled") -> None:
        """End a request now, with what it has written; does nothing if it has ended."""
        if not request.done:
            request.sequence.close(reason)
            self.finish(request)

    def step(self) -> None:
        """Run one round: every pending draft, then every pending score.

        An error outside of any single request ends all requests that are at work, and is their
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
        self._interpreter.forget()
        for request in self.scheduler:
            if request.error is None:
                request.error = error
            request.sequence.close("error")
            self.finish(request)

    def _round(self) -> None:
        programs = self._interpreter
        for request in self.scheduler.expired():
            self.cancel(request, "timeout")
        room = self._room
        if room is not None:
            self.scheduler.resume(room.admits)
        for request in self.scheduler.admit(None if room is None else room.admits):
            programs.start(request)
        programs.collect()
        programs.advance(self)
        worked = self._draft_phase()
        worked |= self._score_phase()
        if not worked and programs.ready and not programs.awaiting:
            self._break_deadlock()
        self._report()

    # The two halves of a round

    def _draft_phase(self) -> bool:
        programs = self._interpreter
        pending, programs.drafts = _divide(programs.drafts)
        if not pending:
            return False
        if self.drafter is None:
            self._refuse_all(pending, "This program drafts, but no draft was loaded.")
            return True
        pending = self._fit_blocks(pending)
        ready = pending
        progress = False
        if isinstance(self.drafter, ModelDrafter):
            ready, progress = self._prepare(pending, "draft", OVERLAP)
        programs.drafts += [w for w in pending if w not in ready and not w.process.request.done]
        began = time.perf_counter()
        blocks = isolate([w.operation for w in ready], self.drafter.run)
        if len(ready) > 1 and not any(w.operation.read for w in ready):
            lengths = [block.length for block in blocks if isinstance(block, Block)]
            self._times.add_draft(lengths, time.perf_counter() - began)
        for waiting, block in zip(ready, blocks, strict=True):
            programs.send(waiting.process, block, self)
        programs.advance(self)
        return progress or bool(ready)

    def _score_phase(self) -> bool:
        programs = self._interpreter
        pending, programs.scores = _divide(programs.scores)
        if not pending:
            return False
        target = self.runners.get("target")
        if target is None:
            sentence = "This policy has the target read tokens, but the target is remote."
            self._refuse_all(pending, sentence)
            return True
        pending, later = _divide_texts(pending, self._texts)
        ready, progress = self._prepare(pending, "target", 1)
        programs.scores += later
        programs.scores += [w for w in pending if w not in ready and not w.process.request.done]
        # Texts that are read have passes of their own: those of others are as they would be.
        texts = [w for w in ready if w.operation.top is not None]
        blocks = [w for w in ready if w.operation.top is None]
        began = time.perf_counter()
        costs = self.costs() if len(blocks) > 1 and not target.skips_pads else None
        spare = None if costs is None else costs.spare_positions
        outcomes = isolate([w.operation for w in blocks], lambda s: score(target, s, spare))
        if len(blocks) > 1:
            seconds = time.perf_counter() - began
            tokens = sum(positions(w.operation) for w in blocks)
            free = [s.block.length for s in (w.operation for w in blocks) if _may_rest(s)]
            drafted = any(free) if free else None
            self._times.add_score(tokens, seconds, drafted=drafted)
        outcomes += isolate([w.operation for w in texts], lambda s: score(target, s))
        for waiting, outcome in zip(blocks + texts, outcomes, strict=True):
            if isinstance(outcome, NonFiniteError):
                for sequence in waiting.process.request.sequence.family():
                    self._scrub(sequence)
            programs.send(waiting.process, outcome, self)
        programs.advance(self)
        return progress or bool(ready)

    def _fit_blocks(self, pending: list[Waiting[Draft]]) -> list[Waiting[Draft]]:
        """Fit blocks to the round; who is to draft nothing gets an empty block at once."""
        others = sum(w.operation.top is None for w in self._interpreter.scores)
        costs = self.costs() if len(pending) + others > 1 else None
        if costs is not None:
            fit_blocks([w.operation for w in pending], others, costs, self._times)
        for waiting in pending:
            if not waiting.operation.count:
                self._interpreter.send(waiting.process, EMPTY, self)
        return [w for w in pending if w.operation.count]

    def _refuse_all(self, pending: Sequence[Waiting[Op]], sentence: str) -> None:
        for waiting in pending:
            self.fail(waiting.process.request, StetError(sentence))

    def _prepare(
        self, pending: list[Waiting[Op]], role: Role, keep: int
    ) -> tuple[list[Waiting[Op]], bool]:
        """Prefill caches with all but the last `keep` tokens; return who is ready."""
        pending = self._make_room(pending, role)
        ready: list[Waiting[Op]] = []
        report = self._prefill.run([w.operation.sequence for w in pending], role, keep)
        for waiting, state in zip(pending, report.states, strict=True):
            if isinstance(state, Exception):
                self.fail(waiting.process.request, state)
            elif state:
                ready.append(waiting)
        # A sibling's failure ends its whole request.
        ready = [w for w in ready if not w.process.request.done]
        return ready, report.progress

    def _make_room(self, pending: list[Waiting[Op]], role: Role) -> list[Waiting[Op]]:
        """Let the newest requests give their places to older ones; return who can go on."""
        room = self._room
        while room and pending and not room.suffices([w.operation for w in pending], role):
            active = self.scheduler.active
            newest = active[-1]
            if len(active) > 1:
                self._preempt(newest)
            else:
                pages = self.runners[role].pages - self._spare_pages
                self.fail(newest, CapacityError(_TOO_SMALL.format(tokens=pages * PAGE)))
            pending = [w for w in pending if w.process.request is not newest]
        return pending

    def _preempt(self, request: Request) -> None:
        """Take a request's places in the caches; what they held is read again when it goes on."""
        request.paused = True
        self.preempted += 1
        for sequence in request.sequence.family():
            self._release(sequence)

    # Requests

    def fail(self, request: Request, error: Exception) -> None:
        """End a request with an error; does nothing if it has ended."""
        if not request.done:
            request.error = error
            request.sequence.close("error")
            self.finish(request)

    def finish(self, request: Request) -> None:
        """Remove a request: close its programs and free its rows."""
        request.done = True
        request.sequence.close("cancelled")
        for sequence in self._interpreter.drop(request):
            self._release(sequence)
        self.scheduler.remove(request)
        if request.on_end is not None:
            request.on_end(request)

    def _report(self) -> None:
        for request in self.scheduler.running:
            grown = len(request.sequence.tokens)
            if not request.first and grown > request.sequence.prompt_length:
                request.first = time.monotonic()
            if request.on_growth is None:
                continue
            if grown != request.seen:
                request.seen = grown
                try:
                    request.on_growth(request)
                except Exception as error:  # it fails its own request alone
                    request.on_growth = None
                    request.error = request.error or error
                    request.sequence.close("error")
                    self.finish(request)

    def _break_deadlock(self) -> None:
        """Fail the newest request where none could get a row, so that its rows become free."""
        rows = min(runner.max_rows for runner in self.runners.values())
        error = CapacityError(
            f"No cache rows are left ({rows} in all); raise max_rows or use fewer candidates."
        )
        self.fail(self.scheduler.active[-1], error)

    def _release(self, sequence: TokenSequence) -> None:
        # A device that failed would refuse to move rows, and nothing will be run there again.
        if self.broken is None:
            try:
                for role, row in sequence.rows.items():
                    self.runners[role].release(row, sequence.tokens)
            except Exception as error:
                # A device error may surface here first; a request that ends must still end.
                self.broken = device_error(error)
                if self.broken is None:
                    raise
        sequence.rows.clear()

    def _scrub(self, sequence: TokenSequence) -> None:
        """Zero the rows of a sequence with values that are not finite before they are reused."""
        for role, row in sequence.rows.items():
            self.runners[role].scrub(row)


_TOO_SMALL = (
    "The caches have room for {tokens} tokens, too few for this request alone; load the pair with "
    "more cache_memory, shorten the text, or ask for fewer candidates."
)


def _divide(waiting: list[Waiting[Op]]) -> tuple[list[Waiting[Op]], list[Waiting[Op]]]:
    """Divide operations into those of requests at work, and of those that are paused."""
    paused = [w for w in waiting if w.process.request.paused]
    return [w for w in waiting if not w.process.request.paused] if paused else waiting, paused


def _divide_texts(
    pending: list[Waiting[Score]], most: int
) -> tuple[list[Waiting[Score]], list[Waiting[Score]]]:
    """Divide operations into those of this round, and pieces of texts that are too many for it.

    Args:
        pending: the operations, those that wait longest first.
        most: tokens of texts from which on pieces wait for the next round.
    """
    now: list[Waiting[Score]] = []
    later: list[Waiting[Score]] = []
    read = 0
    for waiting in pending:
        if waiting.operation.top is None:
            now.append(waiting)
        elif read < most:
            read += positions(waiting.operation)
            now.append(waiting)
        else:
            later.append(waiting)
    return now, later


def _may_rest(item: Score) -> bool:
    """Whether the target may write alone what this block is about."""
    return item.policy is not None and item.policy.lossless


def _unknown() -> None:
    """Return no costs."""
