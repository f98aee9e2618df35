"""CoSD: the draft's token stands where the target is unsure and the draft is surer."""

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
    """Where the models disagree, the draft's token d stands against the target's t by two numbers.

    That is, if p_draft(d) > alpha * p_target(t) and p_target(t) < beta, with raw probabilities.

    Source: the rule-based variant of Wang et al., "Speculate, then Collaborate", arXiv 2502.08020,
    in which a model's token is replaced by an assistant's if its probability is below a threshold
    and the assistant's above a share of it. There the model that drafts is the one that may be
    overruled. Our own: the roles are exchanged, as here it is the target whose token stands by
    default and the draft that assists (`beta` is the paper's threshold alpha, and `alpha` its share
    beta; both are 0.5 there, too); and the token after a whole block is held back, so that the text
    does not depend on the length of blocks.

    Attributes:
        alpha: how sure the draft must be, relative to the target; not negative.
        beta: how sure the target may be at most, 0 to 1.
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
        """See `MismatchPolicy`."""
        of = mismatch_logprobs(blocks, mismatches)
        p_draft, p_target = of.draft_draft.exp(), of.target_target.exp()
        return (p_draft > self.alpha * p_target) & (p_target < self.beta)
