"""Does `stet doctor`'s interval cover the speed-up that is measured afterwards?

    python benchmarks/doctor.py [--pair gguf] [--sets 12] [--stop-after 280]
    python benchmarks/doctor.py report

For each of several disjoint sets of prompts the pair is examined as `stet doctor` does it, in the
time that it takes. Then as many other prompts are answered by the target alone and with the block
length that was advised, in turns, and their speed-up is held against the interval. A run that is
stopped goes on where it was; `report` writes `benchmarks/results/doctor.json` from all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import _prompts
from _record import write

import stet
from stet.doctor.doctor import diagnose
from stet.doctor.examining import MEASURED, examine
from stet.engine.load import Others
from stet.requests.options import PINNED

FOLDER = Path(".cache/doctor")


def one_set(pair: stet.Pair, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """Examine the pair with a set of prompts, and measure with another one."""
    first = 2 * number * options.prompts
    both = _prompts.prompts(pair, options, 2 * options.prompts, first)
    own, others = both[: options.prompts], both[options.prompts :]
    began = time.perf_counter()
    others_work = Others()
    passes = pair.costs
    plain, speculative = examine(pair, own, max_new_tokens=options.tokens, seconds=options.seconds)
    lacking = len(speculative) < len(MEASURED)
    disturbed = others_work.disturb()
    found = diagnose(plain, speculative, passes if lacking else None, disturbed=disturbed)
    seconds = time.perf_counter() - began
    took = {"target": 0.0, "exact": 0.0}
    tokens = {"target": 0, "exact": 0}
    for turn, prompt in enumerate(others):
        for policy in ("target", "exact") if turn % 2 else ("exact", "target"):
            began = time.perf_counter()
            result = pair.generate(
                prompt,
                policy,
                draft_length=found.best.draft_length,
                max_new_tokens=options.tokens,
                **PINNED,
            )
            took[policy] += time.perf_counter() - began
            tokens[policy] += result.counters.emitted_tokens
    measured = tokens["exact"] / took["exact"] / (tokens["target"] / took["target"])
    assert found.interval is not None
    return {
        "set": number,
        "examined_seconds": round(seconds, 1),
        "block_lengths": list(speculative),
        "draft_length": found.best.draft_length,
        "verdict": found.verdict,
        "disturbed": disturbed,
        "acceptance": round(found.acceptance.rate, 3),
        "expected": round(found.best.speedup, 3),
        "low": round(found.interval.low, 3),
        "high": round(found.interval.high, 3),
        "measured": round(measured, 3),
        "covered": found.interval.low <= measured <= found.interval.high,
    }


def run(options: argparse.Namespace) -> None:
    """Examine set after set; what is done already is not done again."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{options.pair}.json"
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    began = time.perf_counter()
    with _prompts.load(options) as pair:
        for number in range(len(rows), options.sets):
            if time.perf_counter() - began > options.stop_after:
                break
            rows.append({"pair": options.pair, **one_set(pair, options, number)})
            path.write_text(json.dumps(rows, indent=1), "utf-8")
            print(rows[-1], flush=True)


def report(note: str) -> None:
    """Write the result file from all runs."""
    rows = [
        row
        for name in _prompts.PAIRS
        if (path := FOLDER / f"{name}.json").exists()
        for row in json.loads(path.read_text("utf-8"))
    ]
    figures = {"doctor_coverage": sum(row["covered"] for row in rows) / len(rows)}
    for name in dict.fromkeys(row["pair"] for row in rows):
        own = [row for row in rows if row["pair"] == name]
        figures[f"doctor_coverage_{name}"] = round(sum(r["covered"] for r in own) / len(own), 3)
        figures[f"sets_{name}"] = len(own)
        figures[f"longest_seconds_{name}"] = max(row["examined_seconds"] for row in own)
    print(write("doctor", rows, figures, note=note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "report"), nargs="?", default="run")
    _prompts.add_arguments(parser)
    parser.add_argument("--sets", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=8, help="of a set")
    parser.add_argument("--tokens", type=int, default=96, help="of the answers measured afterwards")
    parser.add_argument("--seconds", type=float, default=40.0, help="to examine one set")
    parser.add_argument("--stop-after", type=float, default=1e9, help="seconds; begin no further")
    parser.add_argument("--note", default="", help="of a report: what else is to be known")
    options = parser.parse_args()
    report(options.note) if options.what == "report" else run(options)


if __name__ == "__main__":
    main()
