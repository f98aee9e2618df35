"""Responses piece by piece, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from stet.core.result import Chunk, Result
from stet.pair import Pair
from stet.serve.answers import speculation_of
from stet.serve.running import Piece, Runs
from stet.serve.wire.responses import (
    Logprobs,
    Offsets,
    blocks_of,
    finish_of,
    metrics_of,
    timings_of,
    tokens_of,
    usage_of,
)
from stet.serve.work import Work


async def stream_response(
    runs: Runs, work: Work, note: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Run a request and make the pieces of its response; closing the iterator cancels it.

    Args:
        runs: where it is run.
        work: the request.
        note: is told how many tokens were written, and with `texts` also which.

    Raises:
        ApiError: it is refused.
        StetError: it failed.
    """
    writer = _Writer(runs.pair, work)
    note["completion_tokens"] = 0
    async with runs.line(work) as line:
        readings = await runs.readings(work, line)
        if work.echo:
            for index in range(work.count):
                yield writer.echo(index, readings[index // work.choices])
        if work.writes:
            async with runs.pieces(work, line) as pieces:
                async for piece in pieces:
                    _note_piece(note, piece)
                    for made in writer.pieces(piece):
                        yield made
    if not work.writes:
        for index in range(work.count):
            yield writer.choice(index, {"text": "", "finish_reason": "length"})
    if work.include_usage:
        yield writer.last()


def _note_piece(note: dict[str, Any], piece: Piece) -> None:
    """Tell the log of a piece."""
    note["completion_tokens"] += len(piece.chunk.tokens)
    if "texts" in note:
        answers = note["texts"]["answers"]
        answers[piece.index] = answers.get(piece.index, "") + piece.chunk.text


class _Writer:
    """Writes the pieces of one response."""

    def __init__(self, pair: Pair, work: Work) -> None:
        self._pair = pair
        self._work = work
        self._logprobs = Logprobs(pair.tokenizer, work.logprobs or 0)
        self._offsets = [Offsets(pair.tokenizer) for _ in range(work.count)]
        self._opened = [False] * work.count
        self._tokens = [0] * work.count
        self._results: dict[int, Result] = {}

    def pieces(self, piece: Piece) -> list[dict[str, Any]]:
        """The pieces of a chunk: none where it says nothing, two at a chat's beginning."""
        work, chunk, index = self._work, piece.chunk, piece.index
        self._tokens[index] += len(chunk.tokens)
        if chunk.result is not None:
            self._results[index] = chunk.result
        found: list[dict[str, Any]] = []
        if work.chat and not self._opened[index]:
            self._opened[index] = True
            delta = {"role": "assistant", "content": ""}
            found.append(self.choice(index, {"delta": delta, "finish_reason": None}))
        is_said = bool(chunk.text) or chunk.finish_reason is not None
        tells_tokens = work.detailed or work.token_ids or work.logprobs is not None
        if is_said or (tells_tokens and chunk.tokens):
            found.append(self._piece(index, chunk))
        return found

    def _piece(self, index: int, chunk: Chunk) -> dict[str, Any]:
        work = self._work
        reason, more = finish_of(chunk.finish_reason, chunk.result)
        choice: dict[str, Any] = {"finish_reason": reason, "logprobs": None}
        if reason is not None:
            choice["stop_reason"] = more
        if work.chat:
            choice["delta"] = {"content": chunk.text} if chunk.text else {}
        else:
            choice["text"] = chunk.text
        if work.logprobs is not None and chunk.tokens:
            if work.chat:
                choice["logprobs"] = self._logprobs.chat(chunk.tokens)
            else:
                offsets = self._offsets[index]
                choice["logprobs"] = self._logprobs.completion(chunk.tokens, offsets)
        if work.token_ids:
            choice["token_ids"] = [token.id for token in chunk.tokens]
        if work.detailed:
            choice["speculation"] = self._speculation(chunk)
        made = self.choice(index, choice)
        if chunk.result is not None and not work.include_usage and self._is_whole:
            made |= self._sums()
        return made

    @property
    def _is_whole(self) -> bool:
        return len(self._results) == self._work.count

    def _speculation(self, chunk: Chunk) -> dict[str, Any]:
        found: dict[str, Any] = {
            "tokens": tokens_of(chunk.tokens),
            "blocks": blocks_of(chunk.blocks, self._pair.tokenizer),
            "steps": [asdict(step) for step in chunk.steps],
            "elapsed": chunk.seconds,
        }
        if chunk.result is not None:
            found |= speculation_of(self._pair, self._work, chunk.result, pieces=False)
        return found

    def echo(self, index: int, reading: Any) -> dict[str, Any]:
        """The piece that repeats the prompt."""
        text = self._work.prompts[index // self._work.choices].text
        choice: dict[str, Any] = {"text": text, "finish_reason": None, "logprobs": None}
        if reading is not None:
            choice["logprobs"] = self._logprobs.completion([], self._offsets[index], reading)
        self._offsets[index].skip_to(len(text))
        return self.choice(index, choice)

    def choice(self, index: int, choice: dict[str, Any]) -> dict[str, Any]:
        """A piece with one choice."""
        work = self._work
        made = self._frame([{"index": index, **choice}])
        if work.running_usage:
            read, written = work.prompts[index // work.choices].tokens, self._tokens[index]
            made["usage"] = {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            }
        elif work.include_usage:
            made["usage"] = None
        return made

    def last(self) -> dict[str, Any]:
        """The piece without a choice that says how many tokens there were."""
        results = self._ordered
        usage = usage_of(results, [prompt.tokens for prompt in self._work.prompts])
        return self._frame([]) | {"usage": usage} | self._sums()

    @property
    def _ordered(self) -> list[Result]:
        return [self._results[index] for index in sorted(self._results)]

    def _sums(self) -> dict[str, Any]:
        work, results, found = self._work, self._ordered, dict[str, Any]()
        if results and work.level != "none":
            found["metrics"] = metrics_of(results, work.level)
        if results and work.timings:
            found["timings"] = timings_of(results[0])
        return found

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        work = self._work
        return {
            "id": work.id,
            "object": "chat.completion.chunk" if work.chat else "text_completion",
            "created": work.created,
            "model": work.model,
            "choices": choices,
        }
