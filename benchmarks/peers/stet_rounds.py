"""What a round is made of, measured in Stet's own process: bare passes, rounds, and agreement."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import stet
from stet.engine.runner import Logits
from stet.requests.options import PINNED


def passes(pair: stet.Pair, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of bare passes over a cache of `context` tokens, by role and width.

    The logits are those that a round asks for: of all positions of the target, of the draft's last.
    Repeats go round the widths, so that a slow moment does not fall on one of them alone.
    """
    batch, context, repeats = request["batch"], request["context"], request["repeats"]
    shapes = [(role, width) for role, widths in request["widths"].items() for width in widths]

    def timed() -> dict[tuple[str, int], list[float]]:
        seconds: dict[tuple[str, int], list[float]] = {shape: [] for shape in shapes}
        held = {}
        try:
            for role in request["widths"]:
                runner = pair.engine.runners[role]
                held[role] = [runner.allocate() for _ in range(batch)]
                filler = 10 + torch.arange(context).repeat(batch, 1)
                runner.forward(held[role], filler, [0] * batch, logits="none")
            for repeat in range(repeats + 1):
                for role, width in shapes:
                    block = 300 + torch.arange(width).repeat(batch, 1)
                    runner = pair.engine.runners[role]
                    drafts: Logits = "last" if runner.shortlist is None else "short"
                    began = time.perf_counter()
                    runner.forward(
                        held[role],
                        block,
                        [context] * batch,
                        logits="all" if role == "target" else drafts,
                    )
                    if repeat:
                        seconds[role, width].append(time.perf_counter() - began)
        finally:
            for role, rows in held.items():
                for row in reversed(rows):
                    pair.engine.runners[role].release(row)
        return seconds

    with torch.inference_mode():
        found = pair.between_rounds(timed)
    return {
        role: {str(width): median(found[role, width]) for width in widths}
        for role, widths in request["widths"].items()
    }


def rounds(pair: stet.Pair, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of rounds with blocks of one length, while all requests of a batch are at work.

    Returns:
        The median seconds of a round in which every request has its block, how many there were, and
        the engine's own count of seconds in either model in all rounds after the prompts.
    """
    prompts, length = request["prompts"], request["length"]
    pair.generate(prompts, "exact", draft_length=length, max_new_tokens=4, **PINNED)
    spans: list[tuple[float, int]] = []
    step = pair.engine.step

    def timed() -> None:
        began = time.perf_counter()
        step()
        spans.append((time.perf_counter() - began, pair.engine.running))

    pair.engine.step = timed  # type: ignore[method-assign]
    try:
        results = pair.generate(
            prompts,
            "exact",
            draft_length=length,
            max_new_tokens=request["max_new_tokens"],
            ignore_eos=True,
            **PINNED,
        )
    finally:
        del pair.engine.step
    full = [seconds for seconds, live in spans if live == len(prompts)]
    # The first rounds read the prompts; the last ones write blocks that are cut.
    kept = full[2:-1]
    counters = [result.counters for result in results]
    longest = max(len(r.trace.blocks) for r in results)
    return {
        "seconds": median(kept),
        "rounds": len(kept),
        "all_seconds": sum(seconds for seconds, _ in spans),
        "target_seconds": sum(c.target_seconds for c in counters),
        "draft_seconds": sum(c.draft_seconds for c in counters),
        "blocks": longest,
        "drafted": sum(c.drafted_tokens for c in counters),
        "accepted": sum(c.accepted_tokens for c in counters),
    }


def matches(pair: stet.Pair, request: dict[str, Any]) -> dict[str, Any]:
    """For each token of an answer, whether the draft would have written it there, greedily.

    Returns:
        The matches, and the seconds that each model needs to read the prompt, in one bare pass.
    """
    prompt, answer = request["prompt"], request["answer"]

    def read() -> tuple[list[int], dict[str, float]]:
        tokens = torch.tensor([prompt + answer])
        known = len(prompt) - 1
        seconds: dict[str, float] = {}
        for role in ("target", "draft"):
            runner = pair.engine.runners[role]
            row = runner.allocate()
            try:
                for _ in range(2):
                    began = time.perf_counter()
                    runner.forward([row], tokens[:, :known], [0], logits="none")
                    seconds[role] = time.perf_counter() - began
                if role == "draft":
                    logits = runner.forward([row], tokens[:, known:-1], [known]).logits
            finally:
                runner.release(row)
        return [int(token) for token in logits[0].argmax(-1)], seconds

    with torch.inference_mode():
        written, seconds = pair.between_rounds(read)
    same = [int(a == b) for a, b in zip(written, answer, strict=True)]
    return {"matches": same, "prompt_seconds": seconds}


MEASURES: dict[str, Callable[[stet.Pair, dict[str, Any]], dict[str, Any]]] = {
    "passes": passes,
    "rounds": rounds,
    "matches": matches,
}
"""Measurements by the name under which a request asks for them."""
