"""What overruling its target does to SpecGuard, on pairs whose drafts know something, or mislead.

    python benchmarks/overrule.py [--problems 400]

`specguard.overruling` by several margins beside `exact`, with nothing fitted, on validation
problems of every pair that policies are studied on: which margin would be chosen, and what a wrong
one costs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

from _pairs import PAIRS, load, task_of
from _progress import go
from _record import plain_numbers, write

from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.contenders import contender
from stet.evaluation.run import Comparison, Plan

MARGINS = (0.2, 0.4, 0.8)
BATCH = 64


def run(pair: str, problems: int, root: Path) -> records.Results:
    """Run `exact` and every margin on a pair, or go on with it."""
    folder = root / pair
    folder.mkdir(parents=True, exist_ok=True)
    task = task_of(pair, "validation", problems, folder)
    plan = Plan(
        task=task,
        contenders=[
            contender("exact"),
            *(contender("specguard.overruling", {"overrule": m}, label=f"{m:g}") for m in MARGINS),
        ],
        reference="exact",
        batch=BATCH,
        options={"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)},
    )
    go(Comparison(load(pair, max_batch=BATCH), plan, folder / f"run-{problems}"), pair)
    return records.read(folder / f"run-{problems}")


def main() -> None:
    """Run all pairs, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--root", type=Path, default=Path(".cache/overrule"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for pair in PAIRS:
        results = run(pair, options.problems, options.root)
        for policy in summarise(results, bootstrap=2_000).policies:
            steps = [a.counters for a in results.answers if a.policy == policy.label]
            difference = policy.difference
            assert policy.accuracy is not None
            row = {
                "pair": pair,
                "margin": None if policy.label == "exact" else float(policy.label),
                "accuracy": plain_numbers(policy.accuracy),
                "gain": None if difference is None else plain_numbers(difference.gain),
                "stood": round(
                    sum(c.accepted_steps for c in steps) / max(sum(c.steps for c in steps), 1), 4
                ),
            }
            rows.append(row)
            if difference is not None:
                name = f"{pair}_gain_points_{policy.label}"
                figures[name] = round(100 * difference.gain.value, 2)
    print(write("overrule", rows, figures, problems=options.problems))


if __name__ == "__main__":
    main()
