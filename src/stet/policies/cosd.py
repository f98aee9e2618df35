"""CoSD: accept mismatches where the target is uncertain and the draft is confident enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.verification import Mismatches
from stet.policies.checks import check_share
from stet.policies.mismatches import MismatchPolicy, mismatch_logprobs
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class CoSD(MismatchPolicy):
    """At a mismatch, the draft's token d is accepted by two thresholds on the probabilities.

    It is accepted in place of the target's token t if p_draft(d) > alpha * p_target(t) and
    p_target(t) < beta, with raw probabilities.

    Source: the rule-based variant of Wang et al., "Speculate, then Collaborate", arXiv 2502.08020,
    in which a model's token is replaced by an assistant's if its probability is below a threshold
    and the assistant's above a share of it. There the tokens of the drafting model
    may be replaced. Our own: the roles are exchanged, as here the target's token is the default and
    the draft is the assistant (`beta` is the paper's threshold alpha, and `alpha` its share beta;
    both are 0.5 there, too); and the bonus token is deferred, which makes the policy
    block-invariant.

    Attributes:
        alpha: the smallest ratio of the draft's probability to the target's; not negative.
        beta: the probability below which the target counts as uncertain, 0 to 1.
    """

    alpha: float = 0.5
    beta: float = 0.5

    name: ClassVar[str] = "cosd"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS, Need.DRAFT_LOGPROBS})

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise OptionError(f"alpha is {self.alpha}; it must not be negative.")
        check_share(self, "beta")

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        of = mismatch_logprobs(blocks, mismatches)
        p_draft, p_target = of.draft_draft.exp(), of.target_target.exp()
        return (p_draft > self.alpha * p_target) & (p_target < self.beta)
