"""SpecGuard against everything that it must be held against, on problems that nothing was tuned on.

    python benchmarks/specguard.py            # all parts, one after the other, then the report
    python benchmarks/specguard.py greedy     # one part; parts may run side by side
    python benchmarks/specguard.py report     # from what there is
    python benchmarks/specguard.py --pair control-0          # on a control pair

Every part is a run of `stet compare`'s machinery: the contenders take turns chunk by chunk, so that
a ratio of times is of one run, and it can be interrupted. Greedy contenders give the same answers
under every seed and run once; those that sample run once for each seed. `exact` is in every part.
A pair that ships no calibration is calibrated first (`calibrate`), and needs a reward
(`recipes/reward.py head`).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

from _pairs import PAIRS
from _specguard_parts import PART_SEEDS, Settings, calibration, limit, run
from _specguard_report import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = ["calibrate", *PART_SEEDS, "limit", "report"]
    parser.add_argument("part", nargs="?", choices=everything)
    parser.add_argument("--pair", choices=PAIRS, default="bundled")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--latency-problems", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=400, help="problems to calibrate on")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=16, help="of the published setting")
    parser.add_argument("--root", type=Path, default=Path(".cache/specguard"))
    parser.add_argument("--steps", type=Path, default=Path(".cache/calibration/steps.jsonl"))
    given = parser.parse_args()
    settings = Settings(
        problems=given.problems,
        few=given.few,
        latency_problems=given.latency_problems,
        batch=given.batch,
        root=given.root,
        steps=given.steps,
        pair=given.pair,
        calibration=given.calibration,
    )
    for part in [given.part] if given.part else everything:
        if part == "calibrate":
            calibration(settings)
        elif part == "limit":
            limit(settings)
        elif part == "report":
            report(settings)
        else:
            run(part, settings, given.candidates)


if __name__ == "__main__":
    main()
