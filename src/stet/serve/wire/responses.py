"""The objects that clients are sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from stet.core.result import Result, TextReading
from stet.core.trace import BlockRecord, Counters, FinishReason, TokenRecord
from stet.serve.settings import Level

LEAST = -9999.0
"""The log-probability of what is as good as impossible, as other servers write it."""

FINISH: dict[FinishReason, str] = {"stop": "stop", "length": "length", "loop": "stop"}
"""Reasons in OpenAI's words; an answer that was ended from outside was cut."""


def finish_of(
    reason: FinishReason | None, result: Result | None = None
) -> tuple[str | None, str | None]:
    """`finish_reason`, and `stop_reason` where more is known about it.

    Args:
        reason: why the answer ended; None where it has not.
        result: the answer, where it has.
    """
    if reason is None:
        return None, None
    if reason == "stop" and result is not None:
        return "stop", result.stop_string
    return FINISH.get(reason, "length"), None if reason in ("stop", "length") else reason


def usage_of(results: Sequence[Result], prompts: Sequence[int]) -> dict[str, Any]:
    """Tokens of a response; several answers to one prompt count it once.

    Args:
        results: the answers, those to one prompt side by side; none where prompts were only read.
        prompts: tokens of each prompt.
    """
    read = sum(prompts)
    written = sum(len(result.token_ids) for result in results)
    each = len(results) // len(prompts)
    # The first of several to one prompt reads it, and the others find it.
    groups = [results[at : at + each] for at in range(0, len(results), each)] if each else []
    found = sum(min(result.reused_tokens for result in group) for group in groups)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": found},
    }


def metrics_of(results: Sequence[Result], level: Level) -> dict[str, Any]:
    """What answers say of their speculation: in vLLM's shape, and Stet's own counts beside it.

    Args:
        results: the answers of a request, at least one; counts are of all together.
        level: with more than a summary, the blocks of a single answer are listed.
    """
    counters = Counters()
    for result in results:
        counters.add(result.counters)
    first = results[0]
    shared: dict[str, Any] = counters.as_metrics()
    if level in ("detailed", "trace") and len(results) == 1:
        shared["per_step_drafted"] = [len(block.drafted) for block in first.blocks]
        shared["per_step_accepted"] = [block.accepted for block in first.blocks]
    seconds = [r.first_token_seconds for r in results if r.first_token_seconds is not None]
    return {
        "speculative_decoding": shared,
        "stet": {
            "policy": first.settings.policy["name"],
            "lossless": first.settings.lossless,
            "seconds": max(result.seconds for result in results),
            "queued_seconds": max(result.queued_seconds for result in results),
            "first_token_seconds": min(seconds, default=None),
            "target_passes": counters.target_passes,
            "draft_passes": counters.draft_passes,
            "target_seconds": counters.target_seconds,
            "draft_seconds": counters.draft_seconds,
            "tokens_per_pass": counters.tokens_per_pass,
            "steps": counters.steps,
            "accepted_steps": counters.accepted_steps,
        },
    }


def timings_of(result: Result) -> dict[str, Any]:
    """Times of an answer under llama.cpp's names."""
    first = result.first_token_seconds or 0.0
    rest = max(result.seconds - first, 0.0)
    read, written = result.prompt_tokens - result.reused_tokens, len(result.token_ids)
    return {
        "cache_n": result.reused_tokens,
        "prompt_n": read,
        "prompt_ms": 1000 * first,
        "prompt_per_second": read / first if first else None,
        "predicted_n": written,
        "predicted_ms": 1000 * rest,
        "predicted_per_second": written / rest if rest else None,
        "draft_n": result.counters.drafted_tokens,
        "draft_n_accepted": result.counters.accepted_tokens,
    }


def tokens_of(tokens: Iterable[TokenRecord]) -> list[dict[str, Any]]:
    """Who wrote each token, and why it stands."""
    return [
        {
            "id": token.id,
            "text": token.text,
            "origin": token.origin,
            "reason": token.reason,
            "p_target": token.p_target,
            "p_draft": token.p_draft,
        }
        for token in tokens
    ]


def blocks_of(blocks: Iterable[BlockRecord], decoder: Any) -> list[dict[str, Any]]:
    """Blocks as their records say, with the texts of what was drafted and of what was not."""

    def text(token: int) -> str:
        found: str = decoder.decode([token])
        return found

    found: list[dict[str, Any]] = []
    for block in blocks:
        record = asdict(block) | {"drafted_text": [text(token) for token in block.drafted]}
        for mismatch in record["mismatches"]:
            mismatch["target_text"] = text(mismatch["target"])
        found.append(record)
    return found


def logprob_of(token: TokenRecord) -> float:
    """A token's log-probability under the target, in nats."""
    if token.top_logprobs and token.id in token.top_logprobs:
        return max(token.top_logprobs[token.id], LEAST)
    probability = token.p_target or 0.0
    return math.log(probability) if probability > 0 else LEAST


class Offsets:
    """Where tokens begin in a text: those of one character begin where it does.

    Args:
        decoder: turns tokens into text.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._length = 0
        self._open: list[int] = []

    def skip_to(self, length: int) -> None:
        """Go on behind a text of so many characters."""
        self._length, self._open = length, []

    def of(self, tokens: Iterable[int]) -> list[int]:
        """The offsets, in characters, of the next tokens."""
        found: list[int] = []
        for token in tokens:
            found.append(self._length)
            self._open.append(token)
            text: str = self._decoder.decode(self._open)
            if not text.endswith("\ufffd") or len(self._open) >= _MOST_OF_A_CHARACTER:
                self._length += len(text)
                self._open = []
        return found


_MOST_OF_A_CHARACTER = 8
"""Tokens after which an open character is taken for what it is: no character."""


class Logprobs:
    """Log-probabilities of tokens in the forms of both endpoints.

    Args:
        decoder: turns tokens into text.
        top: so many most probable tokens at each position.
    """

    def __init__(self, decoder: Any, top: int) -> None:
        self._decoder = decoder
        self._top = top
        self._texts: dict[int, str] = {}

    def chat(self, tokens: Sequence[TokenRecord]) -> dict[str, Any]:
        """`choices[].logprobs` of a chat."""
        return {
            "content": [
                self._entry(token.id, logprob_of(token))
                | {"top_logprobs": [self._entry(i, p) for i, p in self._best(token)]}
                for token in tokens
            ],
            "refusal": None,
        }

    def completion(
        self, tokens: Sequence[TokenRecord], offsets: Offsets, before: TextReading | None = None
    ) -> dict[str, Any]:
        """`choices[].logprobs` of a completion.

        Args:
            tokens: tokens of the answer.
            offsets: those of the text so far, which go on behind the last of them.
            before: what is known of the prompt, where the response repeats it.
        """
        texts = [token.text for token in tokens]
        values: list[float | None] = [logprob_of(token) for token in tokens]
        best: list[dict[str, float] | None] = [
            {self.text(i): p for i, p in [*self._best(token), (token.id, logprob_of(token))]}
            for token in tokens
        ]
        read: list[int] = []
        if before is not None:
            read = Offsets(self._decoder).of(before.token_ids)
            texts = [*before.tokens, *texts]
            values = [*before.logprobs, *values]
            best = [*map(self._named, before.top_logprobs), *best]
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": best if self._top else None,
            "text_offset": [*read, *offsets.of(token.id for token in tokens)],
        }

    def prompt(self, reading: TextReading) -> list[dict[str, dict[str, Any]] | None]:
        """`prompt_logprobs` as vLLM has them: of each token and of the most probable ones, by id.

        Args:
            reading: what the target says of the prompt.
        """
        found: list[dict[str, dict[str, Any]] | None] = []
        columns = (reading.token_ids, reading.logprobs, reading.top_logprobs, reading.ranks)
        for token, own, best, rank in zip(*columns, strict=True):
            if own is None:
                found.append(None)
                continue
            entries = {
                str(other): self._ranked(other, value, at)
                for at, (other, value) in enumerate([*(best or {}).items()][: self._top], 1)
            }
            # The first is the token itself, which nothing else says.
            found.append({str(token): self._ranked(token, own, rank)} | entries)
        return found

    def _ranked(self, token: int, value: float, rank: int | None) -> dict[str, Any]:
        return {"logprob": max(value, LEAST), "rank": rank, "decoded_token": self.text(token)}

    def _named(self, best: dict[int, float] | None) -> dict[str, float] | None:
        if best is None:
            return None
        return {self.text(i): max(p, LEAST) for i, p in [*best.items()][: self._top]}

    def text(self, token: int) -> str:
        """A token by itself as text."""
        found = self._texts.get(token)
        if found is None:
            found = self._texts[token] = self._decoder.decode([token])
        return found

    def _best(self, token: TokenRecord) -> list[tuple[int, float]]:
        return [(i, max(p, LEAST)) for i, p in (token.top_logprobs or {}).items()][: self._top]

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.text(token)
        # What is no whole character by itself has bytes that its text does not say.
        known = None if "\ufffd" in text else [*text.encode("utf-8")]
        return {"token": text, "logprob": logprob, "bytes": known}
