"""Whole responses, made of results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stet.core.result import Result, TextReading
from stet.pair import Pair
from stet.serve.running import Runs
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


async def whole_response(runs: Runs, work: Work) -> dict[str, Any]:
    """Run a request and make its response.

    Raises:
        ApiError: it is refused.
        StetError: it failed.
    """
    async with runs.line(work) as line:
        readings = await runs.readings(work, line)
        results = await runs.whole(work, line) if work.writes else []
    # Log-probabilities of long texts are many objects; others are served meanwhile.
    return await asyncio.to_thread(_body, runs.pair, work, readings, results)


def _body(
    pair: Pair, work: Work, readings: Sequence[TextReading | None], results: Sequence[Result]
) -> dict[str, Any]:
    """The response, made of what was read and written."""
    choices: list[dict[str, Any]] = []
    for index in range(work.count):
        place = index // work.choices
        result = results[index] if results else None
        choice = _choice(pair, work, place, result, readings[place]) | {"index": index}
        choices.append(choice)
    body: dict[str, Any] = {
        "id": work.id,
        "object": "chat.completion" if work.chat else "text_completion",
        "created": work.created,
        "model": work.model,
        "choices": choices,
        "usage": usage_of(results, [prompt.tokens for prompt in work.prompts]),
        "system_fingerprint": None,
    }
    if results:
        if work.level != "none":
            body["metrics"] = metrics_of(results, work.level)
        if work.timings:
            body["timings"] = timings_of(results[0])
    return body


def speculation_of(
    pair: Pair, work: Work, result: Result, *, pieces: bool = True
) -> dict[str, Any]:
    """`choices[].speculation` at the end of an answer, as the request's level says.

    Args:
        pair: the models.
        work: the request.
        result: the answer.
        pieces: whether tokens, blocks and steps are in it; a stream has sent them.
    """
    found: dict[str, Any] = {
        "policy": result.trace.settings.policy,
        "lossless": result.settings.lossless,
    }
    if pieces:
        found |= {
            "tokens": tokens_of(result.tokens),
            "blocks": blocks_of(result.blocks, pair.tokenizer),
            "steps": [asdict(step) for step in result.trace.steps],
        }
    if work.level == "trace":
        found["trace"] = asdict(result.trace)
    return found


def _choice(
    pair: Pair, work: Work, place: int, result: Result | None, reading: TextReading | None
) -> dict[str, Any]:
    """One answer, without its index."""
    prompt = work.prompts[place]
    text = result.text if result else ""
    reason, more = finish_of(result.finish_reason, result) if result else ("length", None)
    choice: dict[str, Any] = {"finish_reason": reason, "stop_reason": more, "logprobs": None}
    if work.logprobs is not None:
        logprobs = Logprobs(pair.tokenizer, work.logprobs)
        tokens = result.tokens if result else []
        if work.chat:
            choice["logprobs"] = logprobs.chat(tokens)
        else:
            read = reading if work.echo else None
            offsets = Offsets(pair.tokenizer)
            offsets.skip_to(len(prompt.text) if work.echo else 0)
            choice["logprobs"] = logprobs.completion(tokens, offsets, read)
    if work.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = prompt.text + text if work.echo else text
    if work.prompt_logprobs is not None and reading is not None:
        choice["prompt_logprobs"] = Logprobs(pair.tokenizer, work.prompt_logprobs).prompt(reading)
    if result is not None:
        if work.token_ids:
            choice["token_ids"] = result.token_ids
        if work.detailed:
            choice["speculation"] = speculation_of(pair, work, result)
    return choice
