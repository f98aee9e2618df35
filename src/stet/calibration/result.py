"""What a calibration came to, as a file that a policy is loaded from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stet.calibration.choosing import Point, Wish
from stet.calibration.quality import Quality

VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """A policy fitted to a pair and a task, with the evidence.

    Attributes:
        policy: its name.
        parameters: its parameters, `pair` among them: the fingerprint of the only pair it is for.
        wish: what was asked for.
        chosen: the threshold that does it.
        points: every threshold that was tried.
        references: the same of the target alone and of exact speculation, by name.
        qualities: how well each signal tells good steps from bad.
        wrong_way: signals that were left out because they rank steps the wrong way round here.
        score: quality of the fitted score, on the steps it was fitted on.
        claim: what may be said of the chosen threshold, in a sentence.
        task: name, problems of each part, and how steps were labelled.
        target: the target's identity.
        draft: the draft's.
        seed: of the split and the runs.
        machine: what it was measured on.
        versions: of the software.
        command: that made it.
        date: when.
    """

    policy: str
    parameters: dict[str, Any]
    wish: Wish
    chosen: Point
    points: list[Point]
    references: dict[str, Point]
    qualities: list[Quality]
    wrong_way: list[str]
    score: Quality | None
    claim: str
    task: dict[str, Any]
    target: dict[str, Any]
    draft: dict[str, Any]
    seed: int
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str = ""
    date: str = ""
    version: int = field(default=VERSION)

    def save(self, path: Path) -> None:
        """Write it, replacing a file of that name as a whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")
        new.replace(path)
