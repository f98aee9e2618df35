"""The split of everything that the evidence on real pairs is made of; fixed before any of it.

A draft that is tuned, an arbiter and a calibration each learn from problems of their own: an
arbiter that met the problems its draft was tuned on would learn to trust it. A problem's part
depends on its text alone.

- GSM8K, train: `tuning`, `branches`, `calibration` and `validation`, in the order of a hash.
- GSM8K, test: all but the first 96, which had been looked at.
- SVAMP: its test problems, on which nothing is fitted.
- The second domain, of units, dates and clocks, is generated, with splits of its own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

GSM8K = {"tuning": 1200, "branches": 2400, "calibration": 800, "validation": 800}
"""Problems of each part, in this order."""

LOOKED_AT = 96
"""The first problems of GSM8K's test split, which had been looked at before this split was made."""

SECOND_DOMAIN = {
    "tuning": "pair_train",
    "branches": "policy_train",
    "calibration": "calibration",
    "validation": "validation",
    "test": "test",
}
"""Splits of the bundled family `units`, by part."""


def gsm8k(folder: Path, part: str) -> list[dict[str, Any]]:
    """The problems of a part.

    Args:
        folder: holds `train.jsonl` and `test.jsonl`.
        part: of `GSM8K`, or "test".
    """
    if part == "test":
        return _read(folder / "test.jsonl")[LOOKED_AT:]
    start = 0
    for name, count in GSM8K.items():
        if name == part:
            ordered = sorted(_read(folder / "train.jsonl"), key=_place)
            return ordered[start : start + count]
        start += count
    raise KeyError(part)


def _place(record: dict[str, Any]) -> str:
    return hashlib.sha256(f"evidence/{record['question']}".encode()).hexdigest()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
