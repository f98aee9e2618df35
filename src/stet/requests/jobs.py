"""Jobs: requests with the data that their results need."""

from __future__ import annotations

from collections.abc import Callable

from stet.core.errors import StetError
from stet.core.result import Chunk, Result, token_records
from stet.core.trace import Settings
from stet.engine.request import Request


class Job:
    """A request with the prompt and the settings that its result needs."""

    def __init__(self, request: Request, prompt: str, settings: Settings) -> None:
        self.request = request
        self.number = 0
        self._prompt = prompt
        self._settings = settings
        self._reported = 0

    def result(self) -> Result:
        """The result of the request."""
        error = self.request.error
        return Result(
            self.request.sequence,
            number=self.number,
            prompt=self._prompt,
            settings=self._settings,
            seconds=self.request.seconds,
            error=None if error is None else sentence(error),
        )

    def listen(self, post: Callable[[tuple[Job, Chunk | None]], None], *, stream: bool) -> None:
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

    def news(self) -> Chunk | None:
        """The piece that was emitted since the last call; None if there is none."""
        sequence, done = self.request.sequence, self.request.done
        tokens = token_records(sequence, self._reported)
        if not (tokens or done):
            return None
        self._reported += len(tokens)
        stream = sequence.stream
        if stream is None:
            return Chunk("", tokens, sequence.finish_reason)
        if not done:
            return Chunk(stream.take(), tokens, None)
        stream.finish()
        return Chunk(stream.take(final=True), tokens, sequence.finish_reason, self.result())

    def raise_error(self) -> None:
        """Raise the request's error, if it has one, with the partial result."""
        error = self.request.error
        if error is not None:
            raised = error if isinstance(error, StetError) else StetError(sentence(error))
            raised.result = self.result()
            raise raised from (None if raised is error else error)


def sentence(error: Exception) -> str:
    """An error as a sentence of a message."""
    return str(error) if isinstance(error, StetError) else f"{type(error).__name__}: {error}"
