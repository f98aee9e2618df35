"""The tables that are made from the comparison with peers, benchmarks/results/peers.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]
WEIGHTS = {"4-bit": "4-bit GGUF", "openvino": "4-bit GGUF", "bf16": "bfloat16", "vllm": "bfloat16"}

WANTED = {
    "target_vs_llamacpp_q4": ("target alone over llama.cpp's, 4-bit files", 1.0),
    "default_vs_best_peer": ("default over the best setting of all peers", 1.0),
    "exact_vs_computed_bound": ("default over the computed bound", 0.85),
    "target_vs_openvino_q4": ("target alone over OpenVINO's, 4-bit files", None),
    "target_vs_generate_bf16_real": ("target alone over `generate`, bfloat16", 1.0),
    "exact_vs_assisted_bf16_real": ("`exact` over assisted generation, bfloat16", 1.6),
    "exact_vs_target_bf16_real": ("`exact` over target alone, bfloat16", None),
    "target_vs_vllm_cpu_real": ("target alone over vLLM's, bfloat16", 1.0),
    "target_vs_generate_eager": ("bundled pair: target alone over `generate`", 1.0),
    "exact_vs_assisted_eager": ("bundled pair: `exact` over assisted generation", 1.5),
    "exact_vs_assisted_compiled": ("the same, Stet compiled", 3.0),
    "target_vs_vllm_cpu": ("bundled pair: target alone over vLLM's", 1.0),
}
"""Ratios of speeds by their name in the result, in words, with what is wanted of them."""

ROUNDS_WANTED = {("real", 1): 1.15, ("real", 8): 1.1, ("bundled", 1): 1.15, ("bundled", 8): 1.1}
ROUNDS_WANTED["bundled", 32] = 1.1


def table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def interval(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"


def speed(row: Result) -> str:
    found = row["tokens_per_second"]
    return f"{found['median']:.1f} ({found['q1']:.1f}-{found['q3']:.1f})"


def speeds(found: Result) -> str:
    """The real pair: everybody, fastest first."""
    first: dict[str, Result] = {}  # who takes part in several groups is listed once
    for row in found["rows"]:
        if row["group"] in WEIGHTS:
            first.setdefault(row["contender"], row)
    cells: list[list[str]] = []
    for row in sorted(first.values(), key=lambda row: -row["tokens_per_second"]["median"]):
        lead = row.get("default_over_it")
        texts = f"{row['same_text']} of {row['compared_texts']}" if "same_text" in row else ""
        cells.append(
            [
                row["contender"],
                WEIGHTS[row["group"]],
                speed(row),
                interval(lead) if lead and row["contender"] != "stet 4-bit exact" else "",
                texts,
            ]
        )
    heading = ["", "weights", "tokens per second, median (quartiles)"]
    heading += ["Stet's default over it (95 %)", "texts of the float32 target"]
    return table(heading, cells)


def ratios(found: Result) -> str:
    """What was wanted and what was measured."""
    cells: list[list[str]] = []
    for name, (words, wanted) in WANTED.items():
        if name == "exact_vs_computed_bound":
            measured = found["bound"] and found["bound"]["ratio"]
        else:
            measured = found["ratios"].get(name)
        goal = "" if wanted is None else f"{wanted:g}x"
        if name == "default_vs_best_peer" and found["best_peer"]:
            words += f" ({found['best_peer']})"
        cells.append([words, interval(measured) if measured else "not measured", goal])
    return table(["ratio of median speeds", "measured (95 %)", "wanted, at least"], cells)


def bundled(found: Result) -> str:
    """The bundled pair, eager and compiled."""
    cells: list[list[str]] = []
    for name, words in (
        ("target_vs_generate", "Stet's plain decoding over transformers' `generate`"),
        ("exact_vs_target", "`exact` over Stet's plain decoding"),
        ("exact_vs_assisted", "`exact` over transformers' assisted generation"),
        ("exact_vs_generate", "`exact` over transformers' `generate`"),
    ):
        pair = [found["ratios"].get(f"{name}_{way}") for way in ("eager", "compiled")]
        cells.append([words, *(interval(p) if p else "" for p in pair)])
    heading = ["Bundled pair, float32, batch 1: ratio of median speeds (95 %)"]
    return table([*heading, "eager", "Stet compiled"], cells)


def tasks(found: Result) -> str:
    """Spec-Bench's groups."""
    rows = [row for row in found["rows"] if row["group"] == "spec-bench"]
    names = sorted({task for row in rows for task in row.get("tasks", {})})
    cells: list[list[str]] = []
    for name in names:
        own = [row["tasks"].get(name) for row in rows]
        rate = next((o["acceptance_rate"] for o in own if o and "acceptance_rate" in o), None)
        medians = [f"{o['tokens_per_second']['median']:.1f}" if o else "" for o in own]
        cells.append([name, *medians, "" if rate is None else f"{rate:.0%}"])
    return table(["Spec-Bench", *(r["contender"] for r in rows), "accepted by Stet"], cells)


def rounds(found: Result) -> str:
    """A round beside the bare passes it consists of."""
    cells = [
        [
            f"{row['pair']}, {row['batch']} at a time, K = {row['length']}",
            f"{row['draft_milliseconds']:.1f}",
            f"{row['target_milliseconds']:.1f}",
            f"{row['milliseconds']:.1f}",
            f"{row['bare_milliseconds']:.1f}",
            f"{row['over_bare']:.2f}",
            f"{ROUNDS_WANTED[row['pair'], row['batch']]:g}",
        ]
        for row in found["rounds"]
        if (row["pair"], row["batch"]) in ROUNDS_WANTED
    ]
    heading = ["pair", "drafting, ms", "target, ms", "round, ms", "bare passes, ms"]
    return table([*heading, "round over bare passes", "wanted, at most"], cells)


def lengths(found: Result) -> str:
    """Blocks of one length: what bare passes allow, and what was measured."""
    limit = found["bound"]
    if limit is None:
        return "Not measured yet.\n"
    measured = {r["contender"]: r for r in found["rows"] if r["group"] == "lengths"}
    names = {0: "stet 4-bit target", **{k: f"exact K={k}" for k in range(1, 9)}}
    cells: list[list[str]] = []
    for length, value in limit["by_length"].items():
        row = measured.get(names.get(int(length), ""))
        cells.append([str(length), f"{value:.1f}", speed(row) if row else ""])
    auto = measured.get("stet 4-bit exact")
    cells.append(["as Stet chooses", "", speed(auto) if auto else ""])
    heading = ["K", "bare passes allow, tokens per second", "measured"]
    one, five, nine = (limit["passes_milliseconds"]["target"][width] for width in "159")
    return table(heading, cells) + (
        f"\nThe draft writes {limit['agreement']:.0%} of the target's tokens, given the text "
        f"before them. A pass of the target over 1, 5 and 9 tokens takes {one:.1f}, {five:.1f} and "
        f"{nine:.1f} ms, one of the draft over one token "
        f"{limit['passes_milliseconds']['draft']['1']:.1f} ms.\n"
    )


def failures(found: Result) -> str:
    """Who could not be run, and why."""
    told = [f"- {e['who']}: `{' '.join(e['error'].split())[:300]}`\n" for e in found["errors"]]
    told += [
        f"- {c['contender']} ({c['group']}): `{' '.join(c['error'].split())[:300]}`\n"
        for c in found["choices"]
        if "error" in c
    ]
    return "".join(told) or "Everything could be run.\n"


PEER_TABLES: dict[str, Callable[[Result], str]] = {
    "peers_bundled": bundled,
    "peers_failures": failures,
    "peers_lengths": lengths,
    "peers_ratios": ratios,
    "peers_readme": speeds,
    "peers_rounds": rounds,
    "peers_speeds": speeds,
    "peers_tasks": tasks,
}
