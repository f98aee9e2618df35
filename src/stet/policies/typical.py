"""Typical acceptance: the draft's token stands where the target finds it plausible enough."""

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
    """Where the models disagree, the draft's token d stands if the target finds it typical.

    That is, if p_target(d) > min(epsilon, delta * exp(-H)), with the target's raw probability and
    its entropy H in nats: the more open the target is, the less it asks.

    Source: Cai et al., "Medusa", arXiv 2401.10774, with the thresholds of the authors' code, where
    delta is the square root of epsilon. Our own: it rules only where the models disagree, also at
    temperature 0, always by the raw distribution (the authors' by that at the temperature asked
    for, and never at 0); and the token after a whole block is held back, so that the text does not
    depend on the length of blocks.

    Attributes:
        epsilon: the most that is asked, 0 to 1.
        delta: what is asked of a token where the target is certain, 0 to 1.
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
        """See `MismatchPolicy`."""
        return at_mismatches(blocks, mismatches, self._accepts)

    def _accepts(self, target: Tensor, draft: Tensor, token: Tensor) -> Tensor:
        """[N], see `at_mismatches`."""
        del draft
        own = logprobs_of(target, token)[:, 0].exp()
        return own > (self.delta * (-entropy(target)).exp()).clamp(max=self.epsilon)
