"""AutoJudge: the draft's token stands where it makes no difference to the target's answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stet.bundled import AUTOJUDGE
from stet.policies.cospec import CoSpec
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class AutoJudge(CoSpec):
    """`cospec` with an arbiter that was trained to keep the target's own answers.

    `stet train --labels target` trains one: what counts as right is the answer that the target
    would have given, so at best the policy is as good as the target, and faster.

    Source: Garipov et al., "AutoJudge: Judge Decoding Without Manual Annotation", arXiv 2504.20039:
    which disagreements matter, found by going on from them. Our own: features that need no hidden
    states unless asked for, several decisions in a block, and the token behind it held back.

    Attributes:
        arbiter: see `CoSpec`.
        threshold: see `CoSpec`.
        defers_bonus: see `CoSpec`.
    """

    name: ClassVar[str] = "autojudge"
    _shipped: ClassVar[Path] = AUTOJUDGE
