"""Text that a remote target writes: asked for at its endpoint, and taken into the answer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stet.core.errors import StetError
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.steps import Ends
from stet.programs.parts import append
from stet.remote.client import RemoteClient
from stet.remote.completion import Completion, Spoken
from stet.remote.connections import RefusedError
from stet.remote.servers import Home
from stet.text.codec import Codec

WRITTEN = "written by the target"
"""The reason for every token whose text a remote target wrote."""

_HALF = "\N{REPLACEMENT CHARACTER}"
"""How servers write bytes that are not a whole character."""


@dataclass(frozen=True, slots=True)
class RemoteText:
    """Text that a remote target wrote.

    Attributes:
        text: the text, cut where it was asked to end.
        ended: whether the target ended its answer there.
        tokens: number of tokens as the server counted them; None where it did not.
        seconds: time from the request to the answer, queueing included.
        requests: how many requests it took.
        spoken: the server's own tokens, each with its place in the text; none where it does not
            give their log-probabilities.
    """

    text: str
    ended: bool
    tokens: int | None
    seconds: float
    requests: int = 1
    spoken: list[tuple[int, Spoken]] = field(default_factory=list[tuple[int, Spoken]])


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of a stretch of text, which the target is known to write.

    Attributes:
        text: the text.
        tokens: all before it and the text itself, in the draft's tokens, which the server takes.
    """

    text: str
    tokens: list[int]


@dataclass(slots=True, eq=False)
class RemoteWriter:
    """A remote target that continues one request's text.

    Attributes:
        client: asks the server.
        codec: converts between text and the draft's tokens, in which the answer is kept.
        prompt: the prompt as it is sent to the target.
        end: the draft's token for the end of an answer; None where nothing ends one.
        home: the server that is asked, where there are several.
    """

    client: RemoteClient
    codec: Codec
    prompt: str
    end: int | None = None
    home: Home = field(default_factory=Home)

    def so_far(self, sequence: TokenSequence) -> str:
        """The prompt and the answer as text.

        Raises:
            StetError: the answer ends inside a character.
        """
        text = self.codec.text_after(sequence.tokens, sequence.prompt_length)
        if text is None:
            raise StetError("The answer ends inside a character, which no remote target can read.")
        return self.prompt + text

    def take(self, sequence: TokenSequence, written: RemoteText) -> None:
        """Append what the target wrote to the answer.

        Raises:
            StetError: the draft's tokenizer cannot represent it.
        """
        tokens = self.codec.tokens_after(sequence.tokens, written.text)
        if tokens is None:
            raise StetError(
                f"The target wrote {written.text!r}, which the draft's tokenizer changes; choose a "
                "draft whose tokenizer keeps text as it is."
            )
        if written.ended and self.end is not None:
            tokens.append(self.end)
        known = self._probabilities(sequence, tokens, written) if written.spoken else []
        before = len(sequence.emitted)
        append(sequence, tokens, "target", WRITTEN)
        for record, probability in zip(sequence.emitted[before:], known, strict=False):
            record.p_target = probability
        sequence.counters.target_requests += written.requests
        sequence.counters.target_seconds += written.seconds
        if written.ended:
            sequence.close("stop")

    def _probabilities(
        self, sequence: TokenSequence, tokens: list[int], written: RemoteText
    ) -> list[float | None]:
        """The target's probability of each token; None where the server cut the text otherwise."""
        spoken = {(at, of.text): of.logprob for at, of in written.spoken}
        starts = {at: of.logprob for at, of in written.spoken}
        found: list[float | None] = []
        whole, start, place = [*sequence.tokens, *tokens], len(sequence.tokens), 0
        for count in range(start + 1, len(whole) + 1):
            text = self.codec.text_after(whole[:count], start)
            if text is None or not written.text.startswith(text):
                found.append(None)  # inside a character
                continue
            # The end has no text, and in each model a name of its own.
            is_end = written.ended and count == len(whole)
            logprob = starts.get(place) if is_end else spoken.get((place, text[place:]))
            found.append(None if logprob is None else math.exp(logprob))
            place = len(text)
        return found

    async def write(
        self,
        text: str,
        ends: Ends,
        stops: tuple[str, ...],
        most: int,
        sampling: SamplingParams,
        *,
        logprobs: bool = False,
        begun: Begun | None = None,
    ) -> RemoteText:
        """Have the target write on, up to where `ends` says, its own end or a limit.

        The server is asked to stop at certain texts, which most servers then leave out. Where it
        does not say whether it met one of them or the target's own end, one more token tells.

        Args:
            text: the text that the target continues.
            ends: where the stretch ends.
            stops: the texts that may end it; none where only `ends` can tell.
            most: the most tokens, as the server counts them.
            sampling: how tokens are chosen.
            logprobs: ask for log-probabilities, too, where the server gives any.
            begun: the beginning of the stretch, where it is known.

        Returns:
            What the server wrote, which follows `begun`.

        Raises:
            RemoteError: the server refused, or failed for good.
        """
        began = time.monotonic()
        known = "" if begun is None else begun.text
        written, tokens, counted, requests = known, 0, True, 0
        spoken: list[tuple[int, Spoken]] = []
        while True:
            # As tokens, since a text that is cut where the target has just read a token's end might
            # be read otherwise.
            prompt = text + written if begun is None or requests else begun.tokens
            answer = await self._ask(prompt, most - tokens, sampling, stops, logprobs)
            requests += 1
            spoken += _placed(answer.spoken or (), len(written) - len(known))
            written += answer.text
            tokens += max(1, answer.tokens or len(answer.text) // 4)
            counted &= answer.tokens is not None
            ended = False
            if ends(written) is None and answer.finish_reason == "stop":
                stop = answer.stopped_at
                if stop is None:
                    stop = await self._stop(text + written, sampling, stops)
                    requests += bool(stops)
                ended = stop not in stops
                written += "" if ended else stop
            end = ends(written)
            # A delimiter with nothing before it does not end a step: the target goes on.
            if end is not None or ended or answer.finish_reason == "length" or tokens >= most:
                # A limit may cut a character in two; its first half is left out.
                said = written[:end] if ended else written[:end].rstrip(_HALF)
                seconds = time.monotonic() - began
                count = tokens if counted else None
                return RemoteText(said[len(known) :], ended, count, seconds, requests, spoken)

    async def _stop(self, text: str, sampling: SamplingParams, stops: tuple[str, ...]) -> str:
        """Find out at which of the stop strings a text ended; "" for the target's own end."""
        if not stops:
            return ""
        following = await self._ask(text, 1, sampling, ())
        if following.finish_reason == "stop" and not following.text:
            return ""
        for stop in stops:
            if following.text.startswith(stop) or stop.startswith(following.text):
                return stop
        return stops[0]  # sampled again, the target went on; but it did stop before

    async def _ask(
        self,
        prompt: str | list[int],
        most: int,
        sampling: SamplingParams,
        stops: tuple[str, ...],
        logprobs: bool = False,
    ) -> Completion:
        abilities = self.client.abilities if logprobs else None
        greedy = sampling.temperature == 0
        options: dict[str, Any] = {
            "max_tokens": most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "seed": None if greedy else sampling.seed & 0x7FFFFFFF,
            "stop": stops,
            "home": self.home,
        }
        if abilities is not None and abilities.tells:
            try:
                # Some servers take 0 for none.
                return await self.client.complete(prompt, **options, logprobs=1)
            except RefusedError:
                found = await self.client.complete(prompt, **options)
                abilities.tells = False  # that is what was refused
                return found
        return await self.client.complete(prompt, **options)


def _placed(spoken: Iterable[Spoken], start: int) -> Iterator[tuple[int, Spoken]]:
    """Tokens with their places in a text.

    Args:
        spoken: the tokens.
        start: where the first of them begins.
    """
    for of in spoken:
        yield start, of
        start += len(of.text)
