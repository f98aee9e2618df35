"""`draft_length="auto"` against the better of the target alone and the best fixed block length.

    python benchmarks/auto.py [--pair gguf] [--stranger] [--alternations 20]
    python benchmarks/auto.py --batches 8 24 32 [--pair gguf]
    python benchmarks/auto.py report

The best length of a grid is found on prompts of its own. Then the target alone, that length and
"auto" take turns on one prompt, or a few, after the other. The time of "auto" over that of the
better of the two comes with the upper 95 % bound of a bootstrap over alternations. With
`--stranger` the draft writes what it finds least probable, so that nothing is accepted. With
`--batches` the throughput of "auto" is held against that of the target alone, where many requests
share each round. A run that is stopped goes on where it was; `report` writes
`benchmarks/results/auto.json` from all of them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import _prompts
from _record import write

import stet
from stet.requests.options import PINNED

FOLDER = Path(".cache/auto")
GRID = (1, 2, 3, 4, 6, 8, 12)
TUNING = 600
"""Number of the first prompt on which the best length is found."""


def seconds(pair: stet.Pair, prompt: Any, length: int | str, tokens: int) -> tuple[float, Any]:
    """Time an answer; a length of 0 is the target alone."""
    began = time.perf_counter()
    result = pair.generate(
        prompt,
        "exact" if length else "target",
        draft_length=length or 1,
        max_new_tokens=tokens,
        ignore_eos=True,
        **PINNED,
    )
    return time.perf_counter() - began, result.counters


def best_length(pair: stet.Pair, options: argparse.Namespace) -> tuple[int, dict[int, float]]:
    """The fixed length with the least time on prompts of its own."""
    some = _prompts.prompts(pair, options, options.tuning, TUNING)
    grid = GRID if not options.grid else options.grid
    took = {
        length: sum(seconds(pair, prompt, length, options.tokens)[0] for prompt in some)
        for length in grid
    }
    return min(took, key=lambda length: took[length]), took


def alternate(
    pair: stet.Pair, some: list[Any], best: int, number: int, tokens: int
) -> dict[str, float]:
    """Answer each prompt in every way, which take turns at being first; seconds of each way."""
    ways: dict[str, int | str] = {"target": 0, "fixed": best, "auto": "auto"}
    row = dict.fromkeys((*ways, "drafted", "accepted"), 0.0)
    for turn, prompt in enumerate(some):
        first = (number + turn) % len(ways)
        for name in (*list(ways)[first:], *list(ways)[:first]):
            took, counters = seconds(pair, prompt, ways[name], tokens)
            row[name] += took
            if name == "auto":
                row["drafted"] += counters.drafted_tokens
                row["accepted"] += counters.accepted_tokens
    return row


def run(options: argparse.Namespace) -> None:
    """Alternate; what is done already is not done again."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{options.pair}{'-stranger' * options.stranger}.json"
    began = time.perf_counter()
    with _prompts.load(options) as pair:
        _ = pair.costs
        warm = _prompts.prompts(pair, options, 1, TUNING)[0]
        for length in (0, 4, "auto"):
            seconds(pair, warm, length, 16)
        if path.exists():
            record = json.loads(path.read_text("utf-8"))
        else:
            best, took = best_length(pair, options)
            record = {"best": best, "grid": took, "rows": []}
        rule = pair.auto_length()
        record["rule"] = {"draft_cost": rule.draft_cost, "position_cost": rule.position_cost}
        path.write_text(json.dumps(record, indent=1), "utf-8")
        print({name: record[name] for name in ("best", "grid", "rule")}, flush=True)
        rows = record["rows"]
        done = {row["alternation"] for row in rows}
        for number in (n for n in range(options.alternations) if n not in done):
            if time.perf_counter() - began > options.stop_after:
                break
            some = _prompts.prompts(pair, options, options.prompts, number * options.prompts)
            row = alternate(pair, some, record["best"], number, options.tokens)
            rows.append({"alternation": number, **row})
            path.write_text(json.dumps(record, indent=1), "utf-8")
        if options.stranger and 3 * sum(r["accepted"] for r in rows) > sum(
            r["drafted"] for r in rows
        ):
            raise SystemExit("A third of what the stranger wrote was accepted: it is none.")
        if rows:
            print(summary(rows), flush=True)


def run_batches(options: argparse.Namespace) -> None:
    """Answer batches with the target alone and with "auto", in turns."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{options.pair}-batches.json"
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    began = time.perf_counter()
    with _prompts.load(options, max(options.batches)) as pair:
        warm = _prompts.prompts(pair, options, 8, TUNING)
        for policy in ("target", "exact"):
            pair.generate(warm, policy, max_new_tokens=24, **PINNED)
        for number in range(options.alternations):
            for batch in options.batches:
                if any((row["batch"], row["alternation"]) == (batch, number) for row in rows):
                    continue
                if time.perf_counter() - began > options.stop_after:
                    return
                some = _prompts.prompts(pair, options, batch, number * batch)
                row = {"batch": batch, "alternation": number}
                for policy in ("target", "exact") if number % 2 else ("exact", "target"):
                    start = time.perf_counter()
                    results = pair.generate(
                        some, policy, max_new_tokens=options.tokens, ignore_eos=True, **PINNED
                    )
                    tokens = sum(result.counters.emitted_tokens for result in results)
                    row[policy] = tokens / (time.perf_counter() - start)
                    if policy == "exact":
                        row["drafted"] = sum(r.counters.drafted_tokens for r in results)
                        row["accepted"] = sum(r.counters.accepted_tokens for r in results)
                        row["passes"] = sum(r.counters.target_passes for r in results) / batch
                rows.append(row)
                path.write_text(json.dumps({"rows": rows}, indent=1), "utf-8")
                print(row, flush=True)


def batch_figures(setting: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Throughput of "auto" over the target's, by requests at a time: the median of alternations."""
    return {
        f"throughput_{setting.replace('-', '_')}_{batch}": round(
            statistics.median(r["exact"] / r["target"] for r in rows if r["batch"] == batch), 3
        )
        for batch in sorted({row["batch"] for row in rows})
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The ratio of times with its upper bound."""

    def ratio(some: list[dict[str, Any]]) -> float:
        total = {name: sum(row[name] for row in some) for name in ("target", "fixed", "auto")}
        return total["auto"] / min(total["target"], total["fixed"])

    generator = random.Random(0)
    found = sorted(ratio(generator.choices(rows, k=len(rows))) for _ in range(2000))
    total = {name: sum(row[name] for row in rows) for name in ("target", "fixed", "auto")}
    return {
        "auto_over_better": round(ratio(rows), 4),
        "upper": round(found[int(0.95 * len(found))], 4),
        "fixed_over_target": round(total["fixed"] / total["target"], 4),
        "auto_over_target": round(total["auto"] / total["target"], 4),
        "alternations": len(rows),
    }


def report(note: str) -> None:
    """Write the result file from all runs."""
    rows: list[dict[str, Any]] = []
    batched: dict[str, float] = {}
    for path in sorted(FOLDER.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        if path.stem.endswith("-batches"):
            batched |= batch_figures(path.stem, record["rows"])
            rows.append({"setting": path.stem, **record})
            continue
        if not record["rows"]:
            continue
        found = summary(record["rows"])
        rows.append({"setting": path.stem, "best_length": record["best"], **found, **record})
    figures = {"auto_time_vs_best_upper": max(r["upper"] for r in rows if "upper" in r)}
    if batched:
        figures["auto_throughput_vs_target_batched"] = min(batched.values())
    figures |= batched
    for row in (row for row in rows if "upper" in row):
        figures[f"auto_upper_{row['setting'].replace('-', '_')}"] = row["upper"]
    print(write("auto", rows, figures, note=note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "report"), nargs="?", default="run")
    _prompts.add_arguments(parser)
    parser.add_argument("--alternations", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=1, help="of an alternation")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--tuning", type=int, default=4, help="prompts to find the best length on")
    parser.add_argument("--grid", type=int, nargs="+", help="fixed lengths to choose from")
    parser.add_argument("--stop-after", type=float, default=1e9, help="seconds; begin no further")
    parser.add_argument("--batches", type=int, nargs="+", help="requests at a time")
    parser.add_argument("--note", default="", help="of a report: what else is to be known")
    options = parser.parse_args()
    if options.batches and options.what == "run":
        return run_batches(options)
    report(options.note) if options.what == "report" else run(options)


if __name__ == "__main__":
    main()
