"""The token of the more confident model: a plain baseline for trained policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.needs import Need
from stet.core.verification import Mismatches
from stet.policies.mismatches import MismatchPolicy, mismatch_logprobs
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class Confident(MismatchPolicy):
    """At a mismatch, the draft's token is accepted if the draft is more confident.

    That is, if p_draft(d) > p_target(t) + margin, with raw probabilities of the draft's token d and
    the target's token t. The policy is block-invariant.

    Attributes:
        margin: by how much the draft's probability must be larger; negative values favour it.
    """

    margin: float = 0.0

    name: ClassVar[str] = "confident"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS, Need.DRAFT_LOGPROBS})

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        of = mismatch_logprobs(blocks, mismatches)
        p_draft, p_target = of.draft_draft.exp(), of.target_target.exp()
        return p_draft > p_target + self.margin
