"""Relaxed acceptance: the draft's token stands where it is among the target's first choices."""

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
    """Where the models disagree, the draft's token stands if the target ranks it high.

    That is, if it is among the target's `k` most probable tokens and its raw log-probability is at
    most `delta` below the best one's. The text does not depend on the length of blocks.

    Source of the idea: the relaxed acceptance of TensorRT-LLM (`relaxed_topk`, `relaxed_delta`),
    which takes `delta` from the best token's *probability*, so that where that is less than `delta`
    any of the k will do. Our own: a distance in nats, which asks for the same share of the best
    token's probability wherever the target is more or less sure; and defaults of our own.

    Attributes:
        k: how many of the target's tokens are good enough.
        delta: nats below the best at which a token no longer is; not negative.
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
        """See `MismatchPolicy`."""
        return at_mismatches(blocks, mismatches, self._accepts)

    def _accepts(self, target: Tensor, draft: Tensor, token: Tensor) -> Tensor:
        """[N], see `at_mismatches`."""
        del draft
        own = target.gather(1, token)[:, 0]
        ranked, _ = best(target, min(self.k, target.shape[1]))
        # Logits differ by as much as log-probabilities do.
        return (own >= ranked[:, -1]) & (ranked[:, 0] - own <= self.delta)
