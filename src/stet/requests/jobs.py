"""Jobs: requests with the data that their results need."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

from stet.core.errors import OptionError, StetError
from stet.core.operations import Program
from stet.core.result import Chunk, Result, token_records
from stet.core.trace import Settings
from stet.engine.request import Request

R = TypeVar("R")


class Job(ABC, Generic[R]):
    """A request on its way, whose result is an R.

    Args:
        request: the request.
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    @property
    def error(self) -> Exception | None:
        """Why the request failed; None where it did not."""
        return self.request.error

    @abstractmethod
    def result(self) -> R:
        """The result of the request."""

    def news(self) -> Chunk | None:
        """The piece of an answer that was emitted since the last call; None if there is none."""
        return None

    def listen(self, post: Callable[[tuple[Self, Chunk | None]], None], *, stream: bool) -> None:
        """Let the engine's thread post pieces of the answer, and None at its end.

        Args:
            post: function that takes them; must be quick.
            stream: whether to post pieces, or only the end.
        """

        def post_piece(request: Request) -> None:
            chunk = self.news()
            if chunk is not None:
                post((self, chunk))

        def post_end(request: Request) -> None:
            post((self, None))

        self.request.on_end = post_end
        if stream:
            self.request.on_growth = post_piece

    def fail(self, error: Exception) -> None:
        """Record an error that the user's callback raised; other requests go on."""
        self.request.error = self.request.error or error

    def raise_error(self) -> None:
        """Raise the request's error, if it has one, with the partial result."""
        error = self.error
        if error is not None:
            raised = error if isinstance(error, StetError) else StetError(sentence(error))
            raised.result = self.result()
            raise raised from (None if raised is error else error)


def results_of(jobs: Sequence[Job[R]], single: bool) -> R | list[R]:
    """The results of jobs that have ended: of a single one its result alone.

    Raises:
        StetError: a single one failed. In a list the failed ones say so themselves.
    """
    results = [job.result() for job in jobs]
    if not single:
        return results
    jobs[0].raise_error()
    return results[0]


class AnswerJob(Job[Result]):
    """A request for an answer, with the prompt and the settings that its result needs."""

    def __init__(self, request: Request, prompt: str, settings: Settings) -> None:
        super().__init__(request)
        self.number = 0
        self._prompt = prompt
        self._settings = settings
        self._reported = self._blocks = self._steps = 0

    def result(self) -> Result:
        """The result of the request."""
        request = self.request
        end = request.started + request.seconds
        wrote = bool(request.sequence.answer)
        return Result(
            request.sequence,
            number=self.number,
            prompt=self._prompt,
            settings=self._settings,
            seconds=request.seconds,
            error=None if self.error is None else sentence(self.error),
            queued_seconds=max(request.started - request.submitted, 0.0),
            first_token_seconds=(request.first or end) - request.started if wrote else None,
        )

    def news(self) -> Chunk | None:
        """The piece that was emitted since the last call; None if there is none."""
        sequence, done = self.request.sequence, self.request.done
        tokens = token_records(sequence, self._reported)
        if not (tokens or done):
            return None
        self._reported += len(tokens)
        blocks, steps = sequence.blocks[self._blocks :], sequence.steps[self._steps :]
        self._blocks += len(blocks)
        self._steps += len(steps)
        seconds = max(time.monotonic() - self.request.started, 0.0)
        stream = sequence.stream
        if stream is None:
            return Chunk("", tokens, sequence.finish_reason, None, blocks, steps, seconds)
        if not done:
            return Chunk(stream.take(), tokens, None, None, blocks, steps, seconds)
        stream.finish()
        text, result = stream.take(final=True), self.result()
        return Chunk(text, tokens, sequence.finish_reason, result, blocks, steps, result.seconds)


def sentence(error: Exception) -> str:
    """An error as a sentence of a message."""
    return str(error) if isinstance(error, StetError) else f"{type(error).__name__}: {error}"


def fail_in_turn(error: OptionError) -> Program:
    """The program of a request that cannot be run: it raises the error in its turn."""
    yield from ()
    raise error


def locate(error: OptionError, place: tuple[int, int], text: str) -> OptionError:
    """Make an error that names which of several prompts it is about."""
    index, count = place
    if count == 1:
        return error
    start = " ".join(text[:80].split())
    start = f" ({start[:37]}...)" if len(start) > 40 else f" ({start})" if start else ""
    return type(error)(f"Prompt {index + 1} of {count}{start}: {error}")
