"""Reading texts: what a pair's target says of them, as requests among others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar, overload

from stet.core.errors import OptionError, StetError
from stet.core.result import TextReading
from stet.core.sequence import TokenSequence
from stet.engine.engine import Engine
from stet.engine.request import Request
from stet.engine.scoring import piece_of
from stet.engine.thread import EngineThread
from stet.programs import reading
from stet.requests.delivery import deliver, finish
from stet.requests.inputs import Prompt, prompts_of
from stet.requests.jobs import Job, fail_in_turn, locate, results_of, sentence
from stet.requests.options import read_reading_options
from stet.requests.prompts import Prompts

T = TypeVar("T")


class ReadingJob(Job[TextReading]):
    """A request to read a text.

    Args:
        request: the request, whose program returns a `Reading` of all tokens but the first.
        token_ids: the text; empty where the prompt is none.
        decoder: the target's tokenizer.
        timeout: seconds that it may take; None for any.
    """

    def __init__(
        self, request: Request, token_ids: list[int], decoder: Any, timeout: float | None
    ) -> None:
        super().__init__(request)
        self._token_ids = token_ids
        self._decoder = decoder
        self._timeout = timeout

    @property
    def error(self) -> Exception | None:
        """Why the text was not read to its end; None where it was."""
        found = self.request.error
        if found is None and self.request.sequence.finish_reason == "timeout":
            return StetError(
                f"The text was not read within {self._timeout:g} seconds; give it a longer timeout."
            )
        return found

    def result(self) -> TextReading:
        """What the target says of the text."""
        tokens = [self._decoder.decode([token]) for token in self._token_ids]
        error, read = self.error, self.request.result
        if error is not None or read is None:
            why = "The reading was cancelled." if error is None else sentence(error)
            return TextReading(self._token_ids, tokens, [], [], [], why)
        return TextReading(
            self._token_ids,
            tokens,
            [None, *read.logprobs],
            [None, *read.top],
            [None, *read.ranks],
        )


class Reads:
    """A pair whose target reads texts: the part of `stet.pair.Pair` that is about them.

    Attributes:
        engine: runs the target, in a thread of its own.
    """

    engine: Engine
    _thread: EngineThread
    _prompts: Prompts
    _helpers: ThreadPoolExecutor

    # A text is a sequence of texts too; the first overload is the one that is meant for it.
    @overload
    def read(  # type: ignore[overload-overlap]
        self, prompts: Prompt, *, top_logprobs: int = ..., timeout: float | None = ...
    ) -> TextReading: ...

    @overload
    def read(
        self, prompts: Sequence[Prompt], *, top_logprobs: int = ..., timeout: float | None = ...
    ) -> list[TextReading]: ...

    def read(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        top_logprobs: int = 0,
        timeout: float | None = None,
    ) -> TextReading | list[TextReading]:
        """Ask the target how probable each token of one text or many is after those before it.

        Texts are read piece by piece in the rounds of other requests, whose answers stay as they
        are. What the cache holds of a text already is read all the same: it holds no logits.

        Args:
            prompts: as `generate` takes them: a text, a flat list of token ids or a list of
                messages is one; a list of such is many.
            top_logprobs: how many of the target's most probable tokens are recorded at each place,
                at most 20.
            timeout: seconds after which a text that is not read yet fails; None: never.

        Returns:
            A reading, or a list in the order of the texts. In a list, a text that could not be read
            has its `error` set and the others are complete.

        Raises:
            OptionError: for an option out of range, for something that is no prompt, or where the
                target is remote, before anything is run.
            StetError: where a single text could not be read.
        """
        many, single = prompts_of(prompts)
        jobs = self._reading_jobs(many, top_logprobs, timeout)
        with closing(deliver(self._thread, jobs, stream=False)) as events:
            for _ in events:
                pass
        return results_of(jobs, single)

    async def aread(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        top_logprobs: int = 0,
        timeout: float | None = None,
    ) -> TextReading | list[TextReading]:
        """Read one text or many in an event loop; cancelling the task cancels the reading.

        Takes the arguments of `read`.
        """
        many, single = prompts_of(prompts)
        jobs = await self._in_helper_thread(lambda: self._reading_jobs(many, top_logprobs, timeout))
        await finish(self._thread, jobs)
        return await self._in_helper_thread(lambda: results_of(jobs, single))

    def _reading_jobs(
        self, prompts: Sequence[Any], top_logprobs: int, timeout: float | None
    ) -> list[ReadingJob]:
        """Make a job for each text; a job with an invalid one fails as soon as it is run."""
        top, limit = read_reading_options(top_logprobs, timeout)
        target = self.engine.runners.get("target")
        if target is None:
            raise OptionError(
                "Texts are read by a target that is loaded here, and this one is remote; load it "
                "here, or ask its server for prompt_logprobs."
            )
        piece = piece_of(target)
        decoder = self._prompts.vocabularies["target"].tokenizer
        deadline = None if limit is None else time.monotonic() + limit
        jobs: list[ReadingJob] = []
        for index, given in enumerate(prompts):
            tokens: list[int] = []
            try:
                tokens = self._prompts.read(self._prompts.take(given), "target")
                self._prompts.check_text(len(tokens))
                sequence = TokenSequence(tokens[:1])
                program = reading(sequence, tokens[1:], piece=piece, top=top)
            except OptionError as error:
                text = given if isinstance(given, str) else decoder.decode(tokens)
                sequence = TokenSequence(tokens[:1])
                program = fail_in_turn(locate(error, (index, len(prompts)), text))
            request = Request(sequence, program, deadline, length=len(tokens))
            jobs.append(ReadingJob(request, tokens, decoder, limit))
        return jobs

    async def _in_helper_thread(self, function: Callable[[], T]) -> T:
        """Call a function in another thread than the event loop's."""
        raise NotImplementedError
