"""Typical acceptance: at a mismatch, accept a draft token that is typical for the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.verification import Mismatches
from stet.core.wide import entropy, logprobs_of
from stet.policies.checks import check_share
from stet.policies.mismatches import MismatchPolicy, at_mismatches
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class Typical(MismatchPolicy):
    """At a mismatch, the draft's token d is accepted if it is typical for the target.

    That is, if p_target(d) > min(epsilon, delta * exp(-H)), with the target's raw probability and
    its entropy H in nats: the less certain the target, the lower the threshold.

    Source: Cai et al., "Medusa", arXiv 2401.10774, with the thresholds of the authors' code, where
    delta is the square root of epsilon. Our own: the rule is applied at mismatches only, also at
    temperature 0, and always to the raw distribution (the authors' to that at the request's
    temperature, and never at 0); and the bonus token is deferred, which makes the policy
    block-invariant.

    Attributes:
        epsilon: the largest threshold, 0 to 1.
        delta: the threshold where the target is certain, before that limit, 0 to 1.
    """

    epsilon: float = 0.09
    delta: float = 0.3

    name: ClassVar[str] = "typical"

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        check_share(self, "epsilon", "delta")

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        return at_mismatches(blocks, mismatches, self._accepts)

    def _accepts(self, target: Tensor, draft: Tensor, token: Tensor) -> Tensor:
        """Whether each token is accepted, [N] bool; see `at_mismatches`."""
        del draft
        own = logprobs_of(target, token)[:, 0].exp()
        return own > (self.delta * (-entropy(target)).exp()).clamp(max=self.epsilon)
