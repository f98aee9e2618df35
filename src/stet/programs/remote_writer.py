"""Text that a remote target writes: asked for at its endpoint, and taken into the answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from stet.core.errors import StetError
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.steps import Ends
from stet.programs.parts import append
from stet.remote.client import RemoteClient
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
    """

    text: str
    ended: bool
    tokens: int | None
    seconds: float


@dataclass(slots=True, eq=False)
class RemoteWriter:
    """A remote target that continues one request's text.

    Attributes:
        client: asks the server.
        codec: converts between text and the draft's tokens, in which the answer is kept.
        prompt: the prompt as it is sent to the target.
        end: the draft's token for the end of an answer; None where nothing ends one.
    """

    client: RemoteClient
    codec: Codec
    prompt: str
    end: int | None = None

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
        append(sequence, tokens, "target", WRITTEN)
        sequence.counters.target_seconds += written.seconds
        if written.ended:
            sequence.close("stop")

    async def write(
        self, text: str, ends: Ends, stops: tuple[str, ...], most: int, sampling: SamplingParams
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

        Raises:
            RemoteError: the server refused, or failed for good.
        """
        began = time.monotonic()
        written, tokens, counted = "", 0, True
        while True:
            answer = await self._ask(text + written, most - tokens, sampling, stops)
            written += answer.text
            tokens += max(1, answer.tokens or len(answer.text) // 4)
            counted &= answer.tokens is not None
            ended = False
            if ends(written) is None and answer.finish_reason == "stop":
                stop = answer.stopped_at
                if stop is None:
                    stop = await self._stop(text + written, sampling, stops)
                ended = stop not in stops
                written += "" if ended else stop
            end = ends(written)
            # A delimiter with nothing before it does not end a step: the target goes on.
            if end is not None or ended or answer.finish_reason == "length" or tokens >= most:
                # A limit may cut a character in two; its first half is left out.
                said = written[:end] if ended else written[:end].rstrip(_HALF)
                seconds = time.monotonic() - began
                return RemoteText(said, ended, tokens if counted else None, seconds)

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
        self, text: str, most: int, sampling: SamplingParams, stops: tuple[str, ...]
    ) -> Any:
        greedy = sampling.temperature == 0
        return await self.client.complete(
            text,
            max_tokens=most,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            seed=None if greedy else sampling.seed & 0x7FFFFFFF,
            stop=stops,
        )
