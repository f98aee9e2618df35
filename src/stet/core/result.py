"""The result of a request, whole or as a stream of chunks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stet.core.sequence import TokenSequence
from stet.core.trace import Counters, FinishReason, RequestTrace, Settings, TokenRecord


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer.

    Attributes:
        text: new text; may be empty where a token ends inside a character.
        tokens: the tokens emitted since the previous piece.
        finish_reason: set on the last piece.
        result: the whole answer, on the last piece.
    """

    text: str
    tokens: list[TokenRecord]
    finish_reason: FinishReason | None
    result: Result | None = None


class Result:
    """A finished request.

    Attributes:
        prompt: the prompt as text.
        text: the answer, without the stop token or stop string that ended it.
        finish_reason: why it ended.
        seconds: from its start to its end.
        error: one sentence, where it failed; everything written before that is here.
    """

    def __init__(
        self,
        sequence: TokenSequence,
        *,
        number: int,
        prompt: str,
        settings: Settings,
        seconds: float,
        error: str | None,
    ) -> None:
        self._sequence = sequence
        self._number = number
        self._settings = settings
        self.prompt = prompt
        self.text = sequence.text()
        self.seconds = seconds
        self.error = error

    def __repr__(self) -> str:
        """A short form for interactive use."""
        return (
            f"Result(text={self.text!r}, finish_reason={self.finish_reason!r}, "
            f"tokens={len(self.token_ids)})"
        )

    @property
    def finish_reason(self) -> FinishReason:
        """Why the request ended."""
        return self._sequence.finish_reason or "error"

    @property
    def token_ids(self) -> list[int]:
        """The emitted tokens, a final stop token included."""
        return self._sequence.answer

    @property
    def seed(self) -> int:
        """The request's seed; with it, its prompt alone gives the same text again."""
        return self._sequence.sampling.seed

    @property
    def counters(self) -> Counters:
        """Counters of tokens, passes and seconds."""
        return self._sequence.counters

    @property
    def metrics(self) -> dict[str, Any]:
        """The counters in the JSON shape of vLLM's per-request metrics."""
        return {"speculative_decoding": self.counters.as_metrics()}

    @cached_property
    def tokens(self) -> list[TokenRecord]:
        """Every emitted token with its origin and the reason why it was emitted."""
        return token_records(self._sequence, 0)

    @cached_property
    def trace(self) -> RequestTrace:
        """The trace of the request, which can be written as a line of JSON."""
        return RequestTrace(
            request=self._number,
            settings=self._settings,
            prompt=self.prompt,
            prompt_tokens=self._sequence.prompt_length,
            text=self.text,
            finish_reason=self.finish_reason,
            seconds=self.seconds,
            tokens=self.tokens,
            blocks=self._sequence.blocks,
            counters=self.counters,
            steps=self._sequence.steps,
        )


def token_records(sequence: TokenSequence, start: int) -> list[TokenRecord]:
    """Records of the emitted tokens from the `start`-th on."""
    records: list[TokenRecord] = []
    for i, token in enumerate(sequence.answer[start:], start):
        text = "" if sequence.decoder is None else sequence.decoder.decode([token])
        of = sequence.emitted[i]
        records.append(
            TokenRecord(token, text, of.origin, of.reason, of.p_target, of.p_draft, of.top_logprobs)
        )
    return records
