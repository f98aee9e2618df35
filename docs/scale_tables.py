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


def vllm_texts(found: Result) -> str:
    """Texts of each policy inside vLLM, on both of its model runners."""
    rows = [row for row in found["rows"] if row["part"] == "vllm_texts"]
    if not rows:
        raise FileNotFoundError(2, "", "scale.json of texts inside vLLM")
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    lines = [
        "| policy | older runner: texts as in Stet | tokens per pass | newer runner | "
        "tokens per pass |\n| --- | ---: | ---: | ---: | ---: |\n"
    ]
    for policy in policies:
        cells = []
        for runner in ("v1", "v2"):
            row = next(r for r in rows if (r["policy"], r["runner"]) == (policy, runner))
            cells += [f"{row['equal']} of {row['texts']}", f"{row['tokens_per_pass']:.2f}"]
        lines.append(f"| `{policy}` | {' | '.join(cells)} |\n")
    return "".join(lines)


def capacity(found: Result) -> str:
    """Requests per second of each pair, by simulation, and how far it is from what was measured."""
    rows = [row for row in found["rows"] if row["part"] == "capacity"]
    if not rows:
        raise FileNotFoundError(2, "", "scale.json of capacity")
    names = {"bundled": "bundled", "gguf": "Qwen2.5-Coder 1.5B and 0.5B, 4 bits"}
    lines = [
        "| pair | policy | tokens of prompt and answer | first token and end within | "
        "requests per second (simulated) | tokens per second at 4 and 32 at a time: simulated "
        "over measured |\n| --- | --- | ---: | ---: | ---: | ---: |\n"
    ]
    for row in rows:
        if row["what"] != "capacity":
            continue
        own = [r for r in rows if r["what"] == "held" and r["pair"] == row["pair"]]
        errors = [1 + r["error"] for r in own if r["policy"] == row["policy"]]
        lines.append(
            f"| {names[row['pair']]} | `{row['policy']}` | {row['prompt_tokens']} and "
            f"{row['answer_tokens']} | {row['first_token_seconds']:g} s and "
            f"{row['whole_seconds']:g} s | {row['requests_per_second']:.2f} | "
            f"{', '.join(f'{error:.2f}' for error in errors)} |\n"
        )
    return "".join(lines)


SCALE_TABLES: dict[str, tuple[Callable[[Result], str], str]] = {
    "ray_figures": (ray_figures, "overhead"),
    "ray_picture": (ray_picture, "simulation"),
    "vllm_texts": (vllm_texts, "vllm_texts"),
    "capacity": (capacity, "capacity"),
}
"""How a table is made, and the part of the measurements whose circumstances it names."""
