"""Inspecting collected branches: their outcomes, and how well each feature predicts them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from stet.core.errors import StetError
from stet.core.folders import SETTINGS
from stet.training.branches import FIRST, Branches
from stet.training.outlook import Outlook, outlook


@dataclass(frozen=True, slots=True)
class Inspected:
    """Statistics of the branches of one folder.

    Attributes:
        name: name of the folder.
        questions: number of questions that the branches are from.
        branches: number of branches.
        cells: number of branches of each outcome.
        auroc: for each feature that is a single number: the probability that it is larger where
            only the draft's token leads to the right answer than where only the target's does, and
            its mean in both; the most predictive first.
        outlook: what may be expected of an arbiter; None where the branches are not of the target's
            own answers, are too few, or were not judged by right answers.
    """

    name: str
    questions: int
    branches: int
    cells: dict[str, int]
    auroc: dict[str, tuple[float, float, float]]
    outlook: Outlook | None


def inspect_folder(folder: Path) -> list[Inspected]:
    """Compute statistics of all branches that a training has collected so far.

    Raises:
        StetError: the folder holds no training, or no branches yet.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        names, labels = list(settings["features"]), settings.get("labels", "answers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StetError(f"{folder} holds no training.") from error
    found: list[Inspected] = []
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = sorted(part.glob("branches-*.safetensors"))
        if files:
            branches = Branches.join(map(Branches.load, files))
            # By its own answers the target is always right.
            expected = outlook(branches) if part.name == FIRST and labels != "target" else None
            found.append(_inspect(part.name, branches, names, expected))
    if not found:
        raise StetError(f"{folder} holds no branches yet.")
    return found


def _inspect(
    name: str, branches: Branches, features: list[str], expected: Outlook | None
) -> Inspected:
    return Inspected(
        name,
        len(set(branches.question.tolist())),
        len(branches),
        branches.cells(),
        feature_auroc(branches, features),
        expected,
    )


def feature_auroc(branches: Branches, features: list[str]) -> dict[str, tuple[float, float, float]]:
    """How well each feature alone predicts whose token is right; see `Inspected.auroc`."""
    if branches.features.shape[1] != len(features):
        return {}  # hidden states are among them, whose single numbers have no meaning
    draft = (branches.with_draft & ~branches.with_target).numpy()
    target = (~branches.with_draft & branches.with_target).numpy()
    if not draft.any() or not target.any():
        return {}
    values = branches.features.numpy()
    found: dict[str, tuple[float, float, float]] = {}
    for place, name in enumerate(features):
        mine, theirs = values[draft, place], values[target, place]
        ranks = rankdata(np.concatenate([mine, theirs]))[: len(mine)]
        above = ranks.sum() - len(mine) * (len(mine) + 1) / 2
        auroc = float(above / (len(mine) * len(theirs)))
        found[name] = (auroc, float(mine.mean()), float(theirs.mean()))
    return dict(sorted(found.items(), key=lambda item: -abs(item[1][0] - 0.5)))
