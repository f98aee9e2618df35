"""The result file of `scaling.py`, from the rows of all pairs and parts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from _record import write
from _scaling_settings import NAMES, Settings, read

NOISE = 0.03
"""Throughput may seem to fall by so much from one batch to the next larger one."""


def report(settings: Settings) -> None:
    """Write the result file."""
    parts = {
        (pair, part): read(settings.root / f"{pair}-{part}.jsonl")
        for pair in NAMES
        for part in (
            "memory",
            "reuse",
            "preempted",
            "batch",
            "context",
            "grid",
            "length",
            "before",
        )
    }
    rows = [
        {"pair": NAMES[p], "part": q, **row} for (p, q), found in parts.items() for row in found
    ]
    for row in rows:  # long, and compared already
        row.pop("texts", None)
        row.pop("answers", None)
    figures: dict[str, Any] = {}
    for pair in NAMES:
        own = {part: parts[pair, part] for p, part in parts if p == pair}
        figures |= {f"{pair}_{name}": value for name, value in _figures(own).items()}
    curves = {pair: _curves(parts[pair, "batch"]) for pair in NAMES}
    path = write("scaling", rows, figures, models=NAMES, curves=curves)
    print(path)
    for name, value in figures.items():
        print(name, value)


def _figures(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in parts["memory"]:
        found[f"{row['what']}_memory_ratio"] = round(row["ratio"], 3)
    by_caching = {row["caching"]: row for row in parts["reuse"]}
    if len(by_caching) == 2:
        kept = by_caching[True]
        found["second_sample_time_ratio"] = round(kept["again_seconds"] / kept["first_seconds"], 3)
        found["second_turn_time_ratio"] = round(
            kept["second_turn_seconds"] / by_caching[False]["second_turn_seconds"], 3
        )
        found["prefix_caching_texts_equal"] = kept["answers"] == by_caching[False]["answers"]
    texts = {row["name"]: row for row in parts["preempted"]}
    if len(texts) == 2:
        found["preempted_texts_equal"] = texts["few"]["texts"] == texts["all"]["texts"]
        found["preempted"] = texts["few"]["preempted"]
    for way in sorted({row["way"] for row in parts["before"]}):
        some = [row for row in parts["before"] if row["way"] == way]
        ratio = statistics.median(row["now"] / row["before"] for row in some)
        found[f"time_ratio_to_before_{way.replace('.', '_')}"] = round(ratio, 3)
    if parts["before"]:
        found["specguard_paper_speedup"] = round(
            1 / found["time_ratio_to_before_specguard_paper"], 3
        )
        found["batch1_time_ratio_to_before"] = found["time_ratio_to_before_exact"]
    curves = _curves(parts["batch"])
    for contender, curve in curves.items():
        if contender.startswith("stet"):
            name = f"throughput_monotone_{contender.split()[1]}"
            found[name] = _monotone([curve[n] for n in sorted(curve)])
    found |= _context_figures(parts["context"])
    return found


def _curves(rows: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """The median throughput of each contender, by requests at a time."""
    speeds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        speeds[row["contender"]][row["batch"]].append(row["tokens"] / row["seconds"])
    return {
        name: {count: round(statistics.median(some), 2) for count, some in curve.items()}
        for name, curve in speeds.items()
    }


def _monotone(values: list[float]) -> bool:
    """Whether no value is below the best one before it by more than noise."""
    return all(
        value >= (1 - NOISE) * max(values[:place], default=0) for place, value in enumerate(values)
    )


def per_token(row: dict[str, Any]) -> float | None:
    """Seconds of each token after those that came first."""
    if row["first_seconds"] is None or row["tokens"] <= row["first_tokens"]:
        return None
    later = row["tokens"] - row["first_tokens"]
    return float((row["seconds"] - row["first_seconds"]) / later)


def _context_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {}
    longest = max(row["context"] for row in rows)
    last = {row["contender"]: row for row in rows if row["context"] == longest}
    found: dict[str, Any] = {"longest_context": longest}
    if "transformers" not in last or "stet target" not in last:
        return found
    other, own = last["transformers"], last["stet target"]
    times = per_token(own), per_token(other)
    if None not in times:
        found["time_per_token_longest_vs_transformers"] = round(times[0] / times[1], 3)  # type: ignore[operator]
    found["ttft_longest_vs_transformers"] = round(own["first_seconds"] / other["first_seconds"], 3)
    return found
