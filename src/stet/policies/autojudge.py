"""AutoJudge: accept mismatches that make no difference to the target's answer."""

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
    """`cospec` with an arbiter that was trained to preserve the target's own answers.

    `stet train --labels target` trains such an arbiter. Its label source is the answer that the
    target would have given, so at best the policy is as accurate as the target, and faster.

    Source: Garipov et al., "AutoJudge: Judge Decoding Without Manual Annotation", arXiv 2504.20039:
    which mismatches matter is found by rollouts from them. Our own: features that need no hidden
    states by default, several decisions in a block, and a deferred bonus token.

    Attributes:
        arbiter: "bundled" for the bundled pair's, a folder, a hub name or an `Arbiter`.
        threshold: the probability above which the draft's token is accepted; None for the
            arbiter's own.
        defers_bonus: defer the bonus token, see `CoSpec`.
    """

    name: ClassVar[str] = "autojudge"
    _shipped: ClassVar[Path] = AUTOJUDGE
