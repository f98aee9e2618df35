"""The tables of the server, made from benchmarks/results/serve.json and clients.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]

FIGURES = (
    ("ready_seconds", "seconds from its start until it takes requests, bundled pair", "{:.1f}"),
    ("requests", "requests, of eight policies, half of them streams, 16 at a time", "{:,.0f}"),
    ("lost", "of these without a whole response", "{:.0f}"),
    ("other_outputs_changed", "greedy texts that differed from another answer's", "{:.0f}"),
    ("memory_growth_mib", "MiB by which the process grew over the last half of them", "{:.1f}"),
    ("leaked_rows", "rows of the caches held afterwards", "{:.0f}"),
    ("hostile_bodies", "hostile bodies", "{:,.0f}"),
    ("hostile_5xx", "of these answered with a 5xx, or not at all", "{:.0f}"),
    ("overhead_outside_engine", "processor time around the engine over the engine's, Qwen2.5-Coder "
     "1.5B and 0.5B", "{:.1%}"),
    ("overhead_outside_engine_bundled", "the same, bundled pair, one client", "{:.1%}"),
    ("prefix_hit_speedup", "first token of a chat's second turn, behind a text of a thousand "
     "tokens: how much sooner with kept texts, Qwen2.5-Coder", "{:.1f}x"),
    ("prefix_hit_speedup_bundled", "the same, bundled pair", "{:.1f}x"),
)  # fmt: skip


def serve_figures(found: Result) -> str:
    """What the server is held to."""
    figures = found["figures"]
    rows = [
        f"| {words} | {form.format(figures[name])} |\n"
        for name, words, form in FIGURES
        if name in figures
    ]
    return "| | |\n| --- | ---: |\n" + "".join(rows)


def serve_load(found: Result) -> str:
    """Speed by the number of clients."""
    lines = [
        "| pair | clients | tokens/s | first token, p50 / p95 / p99 ms | "
        "between tokens, p50 / p95 / p99 ms | whole, p50 / p95 ms |\n",
        "| --- | ---: | ---: | ---: | ---: | ---: |\n",
    ]
    for row in (row for row in found["rows"] if "clients" in row):
        first, between, whole = row["ttft_ms"], row["itl_ms"], row["e2e_ms"]
        lines.append(
            f"| {row['pair']} | {row['clients']} | {row['tokens_per_second']:,.0f} | "
            f"{first['p50']:,.0f} / {first['p95']:,.0f} / {first['p99']:,.0f} | "
            f"{between['p50']:,.0f} / {between['p95']:,.0f} / {between['p99']:,.0f} | "
            f"{whole['p50']:,.0f} / {whole['p95']:,.0f} |\n"
        )
    return "".join(lines)


def _fact(name: str, value: float) -> str:
    words = name.replace("_", " ")
    return f"{words} {value:.1%}" if "accuracy" in name else f"{value} {words}"


def serve_clients(found: Result) -> str:
    """What clients of other people's came to."""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(found["packages"].items()))
    lines = ["| client | what it found |\n", "| --- | --- |\n"]
    for row in found["rows"]:
        facts = [_fact(name, value) for name, value in row.items() if name != "client"]
        lines.append(f"| {row['client']} | {', '.join(facts)} |\n")
    return "".join(lines) + f"\n{packages}.\n"


SERVE_TABLES: dict[str, tuple[str, Callable[[Result], str]]] = {
    "serve_figures": ("serve", serve_figures),
    "serve_load": ("serve", serve_load),
    "serve_clients": ("clients", serve_clients),
}
"""Each table with the result that it is made from."""
