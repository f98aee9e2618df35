"""CoSpec against everything that it must be compared with, on problems that nothing was tuned on.

    python benchmarks/cospec.py                        # all parts on the bundled pair, the report
    python benchmarks/cospec.py --pair overconfident   # on another pair
    python benchmarks/cospec.py train test             # some parts
    python benchmarks/cospec.py report                 # from what there is of every pair

Parts: `tune` sweeps the rules' parameters on validation problems; `train` trains arbiters under
several seeds, `others` those with the other features, `judge` one against the target's own
answers, for which `aim` finds the threshold by right ones, `shuffle` one on labels dealt at random;
`route` fits a question router; `test` runs everything on test problems, `inside` puts an arbiter
into what SpecGuard rewrites; `pace` tunes the length of blocks and `speed` times everything one
problem at a time; `oracle` finds what could be gained at all, and whose token was right; `curve`
has every threshold; `transfer` runs the trained arbiters on held-out templates and on the second
family; `overhead` is what deciding costs; `again` tunes and tests single rules that have changed
since (`--rules`), whose rows it replaces. Every part can be interrupted. The pairs beside the
bundled one are those of `recipes/README.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import _cospec_parts as parts
from _cospec_report import report
from _pairs import PAIRS
from _parts import parse

from stet.training.request import METHODS

PARTS = {
    "tune": parts.tune,
    "train": parts.trainings,
    "others": parts.others,
    "judge": parts.judge,
    "shuffle": parts.shuffle,
    "route": parts.route,
    "aim": parts.aim,
    "test": parts.test,
    "again": parts.again,
    "inside": parts.inside,
    "oracle": parts.oracle,
    "curve": parts.curve,
    "pace": parts.pace,
    "speed": parts.speed,
    "transfer": parts.transfer,
    "overhead": parts.overhead,
    "report": report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=PAIRS, default="bundled")
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--tuning", type=int, default=400)
    parser.add_argument("--training", type=int, default=1500)
    parser.add_argument("--oracle", type=int, default=500)
    parser.add_argument("--pace", type=int, default=40)
    parser.add_argument("--speed", type=int, default=150)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", choices=parts.SEEDS, default=parts.SEEDS)
    parser.add_argument("--shares", type=int, nargs="+", choices=parts.SHARES, default=parts.SHARES)
    parser.add_argument("--warm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--method", choices=METHODS, default="groups")
    parser.add_argument("--rules", nargs="+", default=[], help="of the part `again`")
    parser.add_argument("--root", type=Path, default=Path(".cache/cospec"))
    options, chosen = parse(parser, PARTS, unasked=["again"])
    settings = parts.Settings(**options)
    settings.folder.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        PARTS[part](settings)


if __name__ == "__main__":
    main()
