"""The small pair that ships with the package, and the problems it was trained on.

Nothing here imports torch: the generator is plain Python, and only the paths of weights are here.
"""

from __future__ import annotations

from pathlib import Path

from stet.bundled.problems import (
    DEFAULT_DIFFICULTY,
    Problem,
    format_prompt,
    generate,
    iterate,
    parse_answer,
    template_names,
)
from stet.bundled.splits import FAMILIES, SPLITS
from stet.bundled.story import Difficulty

TARGET = Path(__file__).parent / "target"
DRAFT = Path(__file__).parent / "draft"
REWARD = Path(__file__).parent / "reward"
REWARD_HEAD = Path(__file__).parent / "reward_head"
COSPEC = Path(__file__).parent / "cospec"
AUTOJUDGE = Path(__file__).parent / "autojudge"
SPECGUARD = Path(__file__).parent / "specguard.json"

__all__ = [
    "AUTOJUDGE",
    "COSPEC",
    "DEFAULT_DIFFICULTY",
    "DRAFT",
    "FAMILIES",
    "REWARD",
    "REWARD_HEAD",
    "SPECGUARD",
    "SPLITS",
    "TARGET",
    "Difficulty",
    "Problem",
    "format_prompt",
    "generate",
    "iterate",
    "parse_answer",
    "template_names",
]
