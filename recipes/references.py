"""Write into what was fitted to the bundled pair how its decisions were then.

    python recipes/references.py

Needed for files from before `stet calibrate` and `stet train` recorded this. The problems that a
threshold was chosen on are answered again, with that threshold; where the decisions do not come out
as the file says they did, it is refused. Nothing else in a file is changed.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stet import bundled, load_pair
from stet.arbiter import Arbiter
from stet.calibration.rollouts import prompt_of, with_room
from stet.core.upgrades import upgrade
from stet.evaluation.tasks import load_task
from stet.pair import Pair
from stet.policies import SpecGuard
from stet.policies.reference import SCORE, Reference, step_decisions
from stet.requests.options import PINNED
from stet.training.measuring import Measuring

FOLDER = Path(bundled.__file__).parent
BATCH = 16
NEAR = 0.005
"""Shares of accepted decisions may differ by so much: by rounding, on another machine."""


def of_calibration(pair: Pair, path: Path) -> Reference:
    """The steps of the problems that a calibration's threshold was chosen on."""
    record = json.loads(path.read_text(encoding="utf-8"))
    count = record["task"]["fitted_on"] + record["task"]["chosen_on"]
    task = load_task(
        record["task"]["name"], split="calibration", count=count, seed=record["seed"]
    ).suited(pair)
    task = with_room(pair, task)
    questions = list(task.questions)
    random.Random(record["seed"]).shuffle(questions)
    policy = SpecGuard.load(path)
    results = pair.generate(
        [list(prompt_of(pair, task, q)) for q in questions[record["task"]["fitted_on"] :]],
        policy,
        max_new_tokens=task.max_new_tokens,
        fit=True,
        stop=list(task.stop),
        seed=record["seed"],
        **PINNED,
    )
    answers = [step_decisions(result.steps) for result in results]
    return checked(path, Reference.of(answers, (*policy.signals, SCORE)), record["chosen"]["kept"])


def of_arbiter(pair: Pair, path: Path) -> Reference:
    """The mismatches of the problems that an arbiter's threshold was chosen on."""
    arbiter = Arbiter.load(path.parent)
    trained: dict[str, Any] = upgrade(dict(arbiter.trained))
    chosen = trained["validation"]
    task = load_task(
        trained["task"], split="validation", count=chosen["questions"], seed=trained["seed"]
    ).suited(pair)
    measuring = Measuring(pair, with_room(pair, task), arbiter, BATCH)
    share = chosen["accepted_mismatches"] / chosen["mismatches"]
    return checked(path, measuring.reference(arbiter.threshold), share)


def checked(path: Path, reference: Reference | None, share: float) -> Reference:
    """A reference whose decisions are those of the file."""
    if reference is None or abs(reference.accepted - share) > NEAR:
        found = None if reference is None else reference.accepted
        sys.exit(f"{path}: a share of {share} was accepted, and now {found}; fit it again.")
    print(f"{path}: {reference.decisions} decisions, accepted {reference.accepted} ({share})")
    return reference


def write(path: Path, reference: Reference) -> None:
    """Add the reference to a file, or replace the one that is there."""
    record = json.loads(path.read_text(encoding="utf-8"))
    holder = record.get("trained", record)
    last = {name: holder.pop(name) for name in ("version",) if name in holder}
    holder["reference"] = asdict(reference)
    holder |= last
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    pair = load_pair(compile=False, max_batch=BATCH)
    specguard = FOLDER / "specguard.json"
    write(specguard, of_calibration(pair, specguard))
    for name in ("cospec", "autojudge"):
        path = FOLDER / name / "arbiter.json"
        write(path, of_arbiter(pair, path))


if __name__ == "__main__":
    main()
