"""The tables that are made from the curves of cost, benchmarks/results/scaling.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]

WORDS = {
    "samples_memory_ratio": (
        "16 samples of a prompt: cache over that of the prompt and what they write",
        "at most 1.2",
    ),
    "candidates_memory_ratio": ("16 candidates of a step: the same", "at most 1.2"),
    "second_sample_time_ratio": (
        "a second sample, kept texts: time to first token over the first's",
        "",
    ),
    "second_turn_time_ratio": ("a chat's second turn: with kept texts over without", ""),
    "prefix_caching_texts_equal": ("texts with and without kept texts are equal", "yes"),
    "preempted_texts_equal": ("texts in caches too small for all requests are equal", "yes"),
    "batch1_time_ratio_to_before": (
        "one request at a time, `exact`: time over that before pages",
        "at most 1.05",
    ),
    "specguard_paper_speedup": (
        "SpecGuard as published: speed over that before pages",
        "at least 1.5",
    ),
    "throughput_monotone_target": (
        "throughput of the target never falls as the batch grows",
        "yes",
    ),
    "throughput_monotone_exact": ("throughput of `exact` never falls as the batch grows", "yes"),
    "time_per_token_longest_vs_transformers": (
        "each token behind the longest context: time over transformers'",
        "at most 1.5",
    ),
    "ttft_longest_vs_transformers": (
        "first token behind the longest context: time over transformers'",
        "",
    ),
}
"""Figures in words, with what is wanted of them."""


def cell(value: Any) -> str:
    if value is None:
        return ""
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:.2f}"


def overview(found: Result) -> str:
    """The figures of every pair that was measured."""
    figures = found["figures"]
    pairs = [p for p in found["models"] if any(name.startswith(f"{p}_") for name in figures)]
    lines = [
        ["", *[f"{pair} pair" for pair in pairs], "wanted"],
        ["---", *["---:"] * len(pairs), "---:"],
    ]
    for name, (words, wanted) in WORDS.items():
        values = [figures.get(f"{pair}_{name}") for pair in pairs]
        if any(value is not None for value in values):
            lines.append([words, *map(cell, values), wanted])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


SCALING_TABLES: dict[str, Callable[[Result], str]] = {"scaling": overview}
