"""Relaxed acceptance: at a mismatch, accept a draft token among the target's k best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.verification import Mismatches
from stet.core.wide import best
from stet.policies.checks import check_count
from stet.policies.mismatches import MismatchPolicy, at_mismatches
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class TopK(MismatchPolicy):
    """At a mismatch, the draft's token is accepted if it is among the target's k best.

    It has to be one of the `k` most probable tokens, with a raw log-probability at most `delta`
    below that of the best one. The policy is block-invariant.

    Source of the idea: the relaxed acceptance of TensorRT-LLM (`relaxed_topk`, `relaxed_delta`),
    which subtracts `delta` from the best token's *probability*, so that where that is less than
    `delta` any of the k is accepted. Our own: a distance in nats, which requires the same share of
    the best token's probability however certain the target is; and the defaults.

    Attributes:
        k: how many of the target's most probable tokens may be accepted.
        delta: how far, in nats, a token may be below the best one; not negative.
    """

    k: int = 3
    delta: float = 1.0

    name: ClassVar[str] = "top-k"

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        check_count(self, "k")
        if not (self.delta >= 0 and math.isfinite(self.delta)):
            raise OptionError(f"delta is {self.delta}; it must not be negative.")

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        return at_mismatches(blocks, mismatches, self._accepts)

    def _accepts(self, target: Tensor, draft: Tensor, token: Tensor) -> Tensor:
        """Whether each token is accepted, [N] bool; see `at_mismatches`."""
        del draft
        own = target.gather(1, token)[:, 0]
        ranked, _ = best(target, min(self.k, target.shape[1]))
        # Logits differ by as much as log-probabilities do.
        return (own >= ranked[:, -1]) & (ranked[:, 0] - own <= self.delta)
