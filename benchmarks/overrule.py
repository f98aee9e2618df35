"""What overruling its target does to SpecGuard, on pairs whose drafts know something, or mislead.

    python benchmarks/overrule.py [--problems 400] [--learn 200]

`specguard.overruling` by several margins beside `exact`, with nothing fitted, on validation
problems of every pair that policies are studied on: what a wrong margin costs, and which margin, or
none, a calibration finds on labelled steps of other problems.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

from _pairs import PAIRS, load, task_of
from _progress import go, tell
from _record import plain_numbers, write

from stet.calibration.learning import learn
from stet.calibration.overruling import Overruling
from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.contenders import contender
from stet.evaluation.run import Comparison, Plan
from stet.pair import Pair
from stet.policies import SpecGuard

MARGINS = (0.2, 0.4, 0.8)
CALIBRATED = "calibrated"
BATCH = 64


def fitted(pair: Pair, name: str, problems: int, root: Path) -> Overruling:
    """What labelled steps of calibration problems say, or have said."""
    folder = root / name / f"labels-{problems}"
    folder.mkdir(parents=True, exist_ok=True)
    task = task_of(name, "calibration", problems, folder).suited(pair)
    found = learn(
        pair, task, SpecGuard.overruling(), folder / "steps.jsonl", tell, batch=BATCH
    ).overruling
    assert found is not None
    return found


def run(pair: Pair, name: str, problems: int, margin: float | None, root: Path) -> records.Results:
    """Run `exact` and every margin on a pair, or go on with it."""
    folder = root / name
    task = task_of(name, "validation", problems, folder)
    margins = {f"{m:g}": m for m in MARGINS} | ({} if margin is None else {CALIBRATED: margin})
    plan = Plan(
        task=task,
        contenders=[
            contender("exact"),
            *(
                contender("specguard.overruling", {"overrule": m}, label=label)
                for label, m in margins.items()
            ),
        ],
        reference="exact",
        batch=BATCH,
        options={"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)},
    )
    go(Comparison(pair, plan, folder / f"run-{problems}"), name)
    return records.read(folder / f"run-{problems}")


def main() -> None:
    """Run all pairs, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--learn", type=int, default=200)
    parser.add_argument("--root", type=Path, default=Path(".cache/overrule"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    learnt: dict[str, dict[str, Any]] = {}
    for name in PAIRS:
        pair = load(name, max_batch=BATCH)
        own = fitted(pair, name, options.learn, options.root)
        results = run(pair, name, options.problems, own.margin, options.root)
        for policy in summarise(results, bootstrap=2_000).policies:
            steps = [a.counters for a in results.answers if a.policy == policy.label]
            difference = policy.difference
            assert policy.accuracy is not None
            row = {
                "pair": name,
                "margin": None if policy.label == "exact" else policy.label,
                "accuracy": plain_numbers(policy.accuracy),
                "gain": None if difference is None else plain_numbers(difference.gain),
                "stood": round(
                    sum(c.accepted_steps for c in steps) / max(sum(c.steps for c in steps), 1), 4
                ),
            }
            rows.append(row)
            if difference is not None:
                key = f"{name}_gain_points_{policy.label}"
                figures[key] = round(100 * difference.gain.value, 2)
        learnt[name] = asdict(own)
    print(
        write(
            "overrule", rows, figures, problems=options.problems, learn=options.learn, learnt=learnt
        )
    )


if __name__ == "__main__":
    main()
