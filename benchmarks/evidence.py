"""Do the two ideas hold on a real pair? Everything from the split to the tables, resumably.

    python benchmarks/evidence.py --pair real             # all parts: hours; it can be stopped
    python benchmarks/evidence.py --pair real tune train  # some parts

Parts: `adapt` tunes the draft of the tuned pair, and its target for a row beside it
(`tuned-target`); `tune` runs the plain rules' settings on validation problems; `train` trains
CoSpec's arbiters, `calibrate` SpecGuard; `declare` writes down what will be tested, and with what
power; `tokens` and `steps` are the test, `oracle` what could be gained, `noise` what rounding alone
changes, `latency` the time of single answers, on a machine that does nothing else; `report` writes
`results/evidence.json` from the records of every pair; `keep` packs a pair's records into
`benchmarks/records`, from which a run on another machine goes on, and a report is made without any
model. Models and problems are those of `_real.py` and `_splits.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _evidence_parts as parts
import _kept
import _real
from _evidence_report import report
from _parts import parse


def keep(settings: parts.Settings) -> None:
    """Keep the records of the pair in the repository."""
    print(_kept.keep(settings.folder))


PARTS = {
    "adapt": parts.adapt,
    "tune": parts.tune,
    "train": parts.train,
    "calibrate": parts.calibrate,
    "declare": parts.declare,
    "tokens": parts.tokens,
    "steps": parts.steps,
    "tuned-target": parts.tuned_target,
    "oracle": parts.oracle,
    "noise": parts.noise,
    "latency": parts.latency,
    "report": report,
    "keep": keep,
}
NEED_NO_MODEL = {"report", "keep"}


def restore_all(root: Path) -> None:
    """Bring back the records that are kept, of every pair that has none here."""
    for pair in _real.PAIRS:
        if _kept.restore(root / pair):
            print(f"{root / pair}: went on from {_kept.archive_of(root / pair)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=_real.PAIRS, default="real")
    parser.add_argument("--tuning", type=int, default=400)
    parser.add_argument("--validation", type=int, default=300)
    parser.add_argument("--branches", type=int, default=240)
    parser.add_argument("--branched", type=int, default=4)
    parser.add_argument("--calibration", type=int, default=160)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--oracle", type=int, default=60)
    parser.add_argument("--latency", type=int, default=100)
    parser.add_argument("--noise", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--root", type=Path, default=Path(".cache/evidence"))
    options, chosen = parse(parser, PARTS)
    settings = parts.Settings(**options)
    restore_all(settings.root)
    missing = _real.missing(settings.pair)
    if missing is not None and not NEED_NO_MODEL.issuperset(chosen):
        print(f"Skipped: there is no {missing}.")
        return
    settings.folder.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        PARTS[part](settings)


if __name__ == "__main__":
    main()
