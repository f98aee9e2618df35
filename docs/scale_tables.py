"""The tables of docs/scale.md, made from benchmarks/results/scale.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]

RAY = (
    ("ray_overhead", "time of a run by one actor over that of this process, less one, 8 questions "
     "at a time", "{:+.1%}"),
    ("ray_overhead_batch_1", "the same, one question at a time", "{:+.1%}"),
    ("ray_identical_after_kill", "share of the answers whose text, tokens and decisions are those "
     "of one process, after a worker of two was killed", "{:.1%}"),
    ("ray_simulated_workers", "workers that only wait, a hundredth of what a pair works on a chunk",
     "{:,.0f}"),
    ("ray_simulated_questions", "questions that these answered", "{:,.0f}"),
    ("ray_driver_chunks_per_second", "most chunks a second that the driver took in and wrote",
     "{:,.0f}"),
    ("ray_chunk_seconds", "seconds that the bundled pair takes for a chunk", "{:.2f}"),
    ("ray_workers_fed", "workers with this pair that one driver keeps busy, by these two",
     "{:,.0f}"),
)  # fmt: skip


def ray_figures(found: Result) -> str:
    """What a run on a cluster costs, and what it is worth after a death."""
    rows = [
        f"| {words} | {form.format(found['figures'][name])} |\n"
        for name, words, form in RAY
        if name in found["figures"]
    ]
    return "| | |\n| --- | ---: |\n" + "".join(rows)


def ray_picture(found: Result) -> str:
    """The curve that benchmarks/ray_scale.py draws."""
    if not any(row["part"] == "simulation" for row in found["rows"]):
        raise FileNotFoundError(2, "", "scale.json of the simulation")
    return "![Chunks a second by the number of workers](images/ray-scale.svg)\n"


SCALE_TABLES: dict[str, tuple[Callable[[Result], str], str]] = {
    "ray_figures": (ray_figures, "overhead"),
    "ray_picture": (ray_picture, "simulation"),
}
"""How a table is made, and the part of the measurements whose circumstances it names."""
