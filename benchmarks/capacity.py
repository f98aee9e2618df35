"""How many requests a pair serves here: simulated from its passes, beside what was measured.

    python benchmarks/capacity.py      # the pair of 4-bit files too, where it is there

Passes are measured alone, blocks in a batch of one and of sixteen; the simulation of
`stet.doctor.capacity` is then held against measured batches that it was not made of. The table of
requests per second comes from the simulation.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import _prompts
from _record import add

from stet import Pair
from stet.core.result import Result
from stet.doctor.capacity import Asked, Serving, capacity, serve_clients
from stet.requests.options import Options

FITTED = (1, 16)
"""Batches that the time beside passes is taken from."""

HELD = (4, 32)
"""Batches that the simulation is held against."""

FIRST = 2.0
WHOLE = {"bundled": 5.0, "gguf": 30.0}
"""Seconds until the first token and until the end, within which 95 % of requests are to be."""

LENGTH = 4
"""Drafted tokens per block."""

SIZES = {"bundled": (128, 128), "gguf": (48, 96)}
"""Prompts, and the most tokens of an answer, by pair."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _prompts.add_arguments(parser)
    parser.add_argument(
        "--only", choices=tuple(SIZES), help="one pair; the other takes ten minutes"
    )
    options = parser.parse_args()
    options.stranger = False
    figures: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name, (count, tokens) in SIZES.items():
        if options.only not in (None, name):
            continue
        options.pair = name
        if name != "bundled" and not (options.models / f"{options.target}.gguf").exists():
            continue
        with _prompts.load(options, max(HELD)) as pair:
            asked = _prompts.prompts(pair, options, count)
            rows += look(name, pair, asked, {"max_new_tokens": tokens})
    figures["capacity_worst_error"] = max(abs(row["error"]) for row in rows if "error" in row)
    print(add("scale", "capacity", rows, figures))


def look(name: str, pair: Pair, prompts: list[Any], options: Options) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for policy, length in (("target", 0), ("exact", LENGTH)):
        chosen: Options = {**options, "draft_length": length} if length else options
        pair.generate(prompts[:8], policy, **chosen)
        serving, asked = fitted(pair, prompts, policy, length, chosen)
        for batch in HELD:
            measured = tokens_per_second(pair, prompts, policy, batch, chosen)
            simulated = serve_clients(serving, asked, batch).tokens_per_second
            rows.append(
                {
                    "part": "capacity",
                    "what": "held",
                    "pair": name,
                    "policy": policy,
                    "batch": batch,
                    "measured": round(measured, 1),
                    "simulated": round(simulated, 1),
                    "error": round(simulated / measured - 1, 3),
                }
            )
            print(rows[-1], flush=True)
        many = asked * (1000 // len(asked) + 1)
        found = capacity(serving, many, first_token=FIRST, whole=WHOLE[name])
        rows.append(
            {
                "part": "capacity",
                "what": "capacity",
                "pair": name,
                "policy": policy,
                "prompt_tokens": round(sum(a.prompt for a in asked) / len(asked)),
                "answer_tokens": round(sum(a.answer for a in asked) / len(asked)),
                "first_token_seconds": FIRST,
                "whole_seconds": WHOLE[name],
                "requests_per_second": round(found, 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def fitted(
    pair: Pair, prompts: list[Any], policy: str, length: int, options: Options
) -> tuple[Serving, list[Asked]]:
    """A serving whose rounds take what batches of one and of sixteen took."""
    beside: list[float] = []
    results: list[Result] = []
    for batch in FITTED:
        some = prompts[: batch * max(1, len(prompts) // (2 * batch))] if batch > 1 else prompts[:8]
        began = time.perf_counter()
        results = batches(pair, some, policy, batch, options)
        seconds = time.perf_counter() - began
        rounds = sum(result.counters.target_passes for result in results) / batch
        base = Serving(pair.costs, length, 1.0)
        reading = sum(base.reading(result.prompt_tokens) for result in results)
        beside.append(max((seconds - reading) / rounds - base.round(batch), 0.0))
    passes = sum(result.counters.target_passes for result in results)
    tokens = sum(len(result.token_ids) for result in results)
    slope = max((beside[1] - beside[0]) / (FITTED[1] - FITTED[0]), 0.0)
    serving = Serving(
        pair.costs, length, tokens / passes, max(beside[0] - slope, 0.0), slope, max(HELD)
    )
    return serving, [Asked(result.prompt_tokens, len(result.token_ids)) for result in results]


def batches(
    pair: Pair, prompts: list[Any], policy: str, batch: int, options: Options
) -> list[Result]:
    """Answers, so many prompts at a time."""
    found: list[Result] = []
    for first in range(0, len(prompts), batch):
        found += pair.generate(prompts[first : first + batch], policy, **options)
    return found


def tokens_per_second(
    pair: Pair, prompts: list[Any], policy: str, batch: int, options: Options
) -> float:
    began = time.perf_counter()
    found = batches(pair, prompts[: batch * max(1, len(prompts) // batch)], policy, batch, options)
    return sum(len(result.token_ids) for result in found) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
