"""The result of a request, whole or as a stream of chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stet.core.sequence import TokenSequence
from stet.core.trace import (
    BlockRecord,
    Counters,
    FinishReason,
    RequestTrace,
    Settings,
    StepRecord,
    TokenRecord,
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer.

    Attributes:
        text: new text; may be empty where a token ends inside a character.
        tokens: the tokens emitted since the previous piece.
        finish_reason: set on the last piece.
        result: the whole answer, on the last piece.
        blocks: the blocks that were decided about since the previous piece.
        steps: the steps of reasoning that were decided about since then.
        seconds: from the request's start to this piece.
    """

    text: str
    tokens: list[TokenRecord]
    finish_reason: FinishReason | None
    result: Result | None = None
    blocks: list[BlockRecord] = field(default_factory=list[BlockRecord])
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    seconds: float = 0.0


class Result:
    """A finished request.

    Attributes:
        prompt: the prompt as text.
        text: the answer, without the stop token or stop string that ended it.
        finish_reason: why it ended.
        seconds: from its start to its end.
        queued_seconds: how long it waited before.
        first_token_seconds: from its start to the end of the round that wrote its first token; None
            where it wrote none.
        reused_tokens: tokens of the prompt that the target did not read, since its cache held them.
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
        queued_seconds: float = 0.0,
        first_token_seconds: float | None = None,
    ) -> None:
        self._sequence = sequence
        self._number = number
        self._settings = settings
        self.prompt = prompt
        self.text = sequence.text()
        self.seconds = seconds
        self.error = error
        self.queued_seconds = queued_seconds
        self.first_token_seconds = first_token_seconds
        self.reused_tokens = sequence.reused

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
    def stop_string(self) -> str | None:
        """The stop string that ended the answer; None where none did."""
        return self._sequence.stop_string

    @property
    def token_ids(self) -> list[int]:
        """The emitted tokens, a final stop token included."""
        return self._sequence.answer

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._sequence.prompt_length

    @property
    def seed(self) -> int:
        """The request's seed; with it, its prompt alone gives the same text again."""
        return self._sequence.sampling.seed

    @property
    def settings(self) -> Settings:
        """What is needed to repeat the request."""
        return self._settings

    @property
    def provenance(self) -> Mapping[tuple[str, str], int]:
        """How many of the emitted tokens have each origin and reason."""
        return Counter((of.origin, of.reason) for of in self._sequence.emitted)

    @property
    def blocks(self) -> list[BlockRecord]:
        """Every drafted block, and what was accepted of it."""
        return self._sequence.blocks

    @property
    def steps(self) -> list[StepRecord]:
        """Every step of reasoning that was decided about."""
        return self._sequence.steps

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


@dataclass(frozen=True, slots=True, repr=False)
class TextReading:
    """What the target says of a text: of each token, given those before it.

    The lists have an entry for each token. The first of all but `token_ids` and `tokens` is None,
    since nothing precedes that token; where `error` is set they are empty. Distributions are the
    target's own, before any option of a request, in natural logarithms.

    Attributes:
        token_ids: the text, in the target's tokens.
        tokens: the text of each token.
        logprobs: log-probability of each token.
        top_logprobs: the most probable tokens at its place, as many as were asked for, with their
            log-probabilities, the best first; the token itself need not be among them.
        ranks: 1 and the number of tokens that are more probable at its place: 1 where the target
            would have written it, too.
        error: one sentence, where the text could not be read; None otherwise.
    """

    token_ids: list[int]
    tokens: list[str]
    logprobs: list[float | None]
    top_logprobs: list[dict[int, float] | None]
    ranks: list[int | None]
    error: str | None = None

    def __repr__(self) -> str:
        """A short form for interactive use."""
        return f"TextReading(tokens={len(self.token_ids)}, error={self.error!r})"


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
