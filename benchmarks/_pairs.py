"""The pairs that policies are studied on, each with the problems that it was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stet import load_pair
from stet.evaluation.tasks import load_task
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair

STUDY = Path(__file__).parent / "pairs"
CONTROL_SEEDS = (0, 1, 2)
PAIRS: dict[str, tuple[str | None, str | None]] = {
    "bundled": (None, None),
    "overconfident": (str(STUDY / "study-target"), str(STUDY / "draft-overconfident")),
    "specialised": (str(STUDY / "study-target"), str(STUDY / "draft-specialised")),
    **{
        f"control-{seed}": (
            str(STUDY / "control" / f"target-{seed}"),
            str(STUDY / "control" / f"draft-{seed}"),
        )
        for seed in CONTROL_SEEDS
    },
}
"""Target and draft of each pair (`recipes/README.md`). Of two the drafts mislead; of the control
pairs they know what their targets lack, and are weak at everything else."""

CONTROL = {"policy_train": 6000, "calibration": 2000, "validation": 2000, "test": 3000}
"""Problems of a control pair that are generated, by split."""


def control_seed(pair: str) -> int | None:
    """The seed of a control pair; None for another pair."""
    kind, _, number = pair.partition("-")
    return int(number) if kind == "control" else None


def load(pair: str, **options: Any) -> Pair:
    """A pair by its name."""
    target, draft = PAIRS[pair]
    return load_pair(target, draft, dtype="float32", compile=False, **options)


def task_of(
    pair: str, split: str, count: int, folder: Path, seed: int = 0, family: str = "stories"
) -> LoadedTask:
    """Problems of the kind that a pair was trained on.

    Args:
        pair: its name.
        split: whose problems.
        count: of problems.
        folder: where those of a control pair are written.
        seed: other problems of the split.
        family: of the bundled problems, for the other pairs.
    """
    number = control_seed(pair)
    if number is None:
        return load_task(family, split=split, count=count, seed=seed)
    path = _control_problems(folder, split, number)
    return load_task(str(path), count=count, seed=seed, grader="number")


def _control_problems(folder: Path, split: str, seed: int) -> Path:
    """A file of problems of the control pair, written where there is none."""
    import control  # of the recipes, which are no package

    path = folder / f"{split}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        problems = control.generate("asked", split, CONTROL[split], seed)
        lines = [json.dumps({"question": p.text, "answer": str(p.answer)}) for p in problems]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
