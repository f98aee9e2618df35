"""The surer model's token: a plain rule that every clever one is held against."""

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
    """Where the models disagree, the draft's token stands if the draft is surer of its own.

    That is, if p_draft(d) > p_target(t) + margin, with raw probabilities of the draft's token d and
    the target's token t. The text does not depend on the length of blocks.

    Attributes:
        margin: how much surer the draft must be; negative values favour it.
    """

    margin: float = 0.0

    name: ClassVar[str] = "confident"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS, Need.DRAFT_LOGPROBS})

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """See `MismatchPolicy`."""
        of = mismatch_logprobs(blocks, mismatches)
        p_draft, p_target = of.draft_draft.exp(), of.target_target.exp()
        return p_draft > p_target + self.margin
