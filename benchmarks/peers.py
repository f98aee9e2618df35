"""Stet against its peers, in one run: tokens per second, texts, and where a round's time goes.

    make peers MODELS=.cache/models

transformers, llama.cpp, OpenVINO GenAI and vLLM, each in an environment of its own, decode the same
prompts (chat-templated questions of GSM8K, and Spec-Bench's groups), greedily, without a repetition
penalty, with the same number of threads; they take turns on every prompt, and one is at work at a
time. A peer's setting, such as the number of drafted tokens, is the one of a grid that is fastest
on other prompts. Speed is tokens per second of a whole answer, its prompt included. A peer that
cannot be installed or run is named with its error in `benchmarks/results/peers.json`.

Everything measured is kept in `--folder` as it is made. `--minutes` ends a slice, and the same
command goes on; the result file is written when all is there.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

from _peers_checkpoint import Checkpoint
from _peers_convert import readable
from _peers_figures import elsewhere, figures, gather, missed, rows
from _peers_groups import QUICK, Groups, Places, Sizes
from _peers_session import Session, measurements
from _peers_setup import ROOT, SCRIPTS, install
from _peers_turns import OutOfTime
from _record import write


def main() -> None:
    options = arguments()
    if options.gather:
        for name, value in gather().items():
            print(f"{name:<32} {value}")
        return
    places = Places(
        (options.models / options.target).absolute(),
        (options.models / options.draft).absolute(),
        options.environments.absolute(),
        options.gsm8k,
        options.spec_bench if options.spec_bench.is_file() else None,
    )
    missing = [str(path) for path in needed(places) if not path.exists()]
    if missing:
        print(f"Skipped: there is no {' and no '.join(missing)}; name the folder of models.")
        return
    sizes = QUICK if options.quick else Sizes()
    folder = options.folder / ("quick" if options.quick else "full")
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    failed = install(places.environments)
    draft = readable(Path(places.packed["draft"]), places.environments / "openvino-models")
    places = replace(places, openvino_draft=draft)
    groups = Groups(places, sizes)
    wanted = [g for g in groups.all() if not options.groups or g.name in options.groups]
    plan = {"sizes": asdict(sizes), "code": code(), "groups": [repr(g) for g in groups.all()]}
    checkpoint = Checkpoint(folder / "records.jsonl", plan)
    for name, error in failed.items():
        if checkpoint.find(installing=name) is None:
            checkpoint.add({"installing": name, "error": error})
    texts_plan = {"target": places.target.name, "limit": sizes.limit}
    reference = Checkpoint(options.folder / f"reference-{sizes.limit}.jsonl", texts_plan)
    ends = time.monotonic() + 60 * options.minutes
    session = Session(checkpoint, folder, ends)
    texts = Session(reference, folder, ends)
    try:
        for group in wanted:
            print(f"{group.name}: {group.about}", flush=True)
            session.run(group)
            # What both models agree on is asked of the texts of this group.
            if group.name == "4-bit":
                asked = measurements(groups, checkpoint)
                for spec in groups.rounds():
                    session.measure(spec, asked[spec.name])
        if not options.groups or "reference" in options.groups:
            texts.run(groups.reference())
        finished = not options.groups
    except OutOfTime:
        print("The time of this slice is over; the same command goes on.")
        finished = False
    found = rows(groups, checkpoint, reference)
    named = figures(groups, checkpoint)
    for name, value in named.items():
        print(f"{name:<32} {value}")
    if options.quick or not (finished or options.partial):
        print("Nothing is written: this is a part of a run.")
        return
    speeds = found.pop("speeds")
    named |= elsewhere()
    print(write("peers", speeds, named, finished=finished, missed=missed(named), **found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--target", default="coder-1.5b")
    parser.add_argument("--draft", default="coder-0.5b")
    parser.add_argument("--gsm8k", type=Path, default=Path(".cache/gsm8k"))
    parser.add_argument(
        "--spec-bench",
        type=Path,
        default=Path(".cache/spec_bench/question.jsonl"),
        help="its file of questions; left out where there is none",
    )
    parser.add_argument("--environments", type=Path, default=Path(".cache/peers"))
    parser.add_argument("--folder", type=Path, default=Path(".cache/peers-run"))
    parser.add_argument("--groups", nargs="+", help="only these")
    parser.add_argument("--partial", action="store_true", help="write what there is so far")
    parser.add_argument("--minutes", type=float, default=600, help="of this slice")
    parser.add_argument("--quick", action="store_true", help="few short answers, to try it out")
    parser.add_argument("--fresh", action="store_true", help="do not go on with an earlier run")
    parser.add_argument(
        "--gather",
        action="store_true",
        help="only take the figures of auto.py, doctor.py and quantisation.py into the result",
    )
    return parser.parse_args()


def needed(places: Places) -> list[Path]:
    """What must be there."""
    packed = [Path(path) for path in places.packed.values()]
    return [*packed, places.target, places.draft, places.gsm8k / "test.jsonl"]


def code() -> str:
    """A hash of what is measured: records of another Stet, or of other workers, are not mixed."""
    digest = hashlib.sha256()
    files = [*(ROOT / "src/stet").rglob("*.py"), *(ROOT / "src/stet").rglob("*.c")]
    for path in sorted([*files, *SCRIPTS.iterdir()]):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
