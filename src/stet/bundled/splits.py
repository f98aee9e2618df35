"""The split that a problem belongs to.

A hash of a problem's identity (template, numbers, operations) decides the split, so no number
combination can be in two splits, whatever seed it was drawn with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

FAMILIES: tuple[str, ...] = ("stories", "units")

# Shares of the hash space. Number combinations are plentiful, so the small splits may have wide
# shares: fewer draws are thrown away.
_SHARES: tuple[tuple[str, int], ...] = (
    ("pair_train", 50),
    ("policy_train", 15),
    ("calibration", 10),
    ("validation", 10),
    ("test", 15),
)

OUT_OF_TEMPLATE = "out_of_template"
SPLITS: tuple[str, ...] = (*(name for name, _ in _SHARES), OUT_OF_TEMPLATE)


@dataclass(frozen=True)
class Key:
    """The identity of a problem; two problems with equal keys are duplicates."""

    template: str
    numbers: tuple[int, ...]
    operations: tuple[str, ...]


def split_of(key: Key) -> str:
    """The split this number combination belongs to, for templates that are trained on."""
    text = f"{key.template}|{','.join(map(str, key.numbers))}|{''.join(key.operations)}"
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    for name, share in _SHARES:
        if bucket < share:
            return name
        bucket -= share
    raise AssertionError("shares must sum to 100")
