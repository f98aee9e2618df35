"""A random arbiter: the control that every clever one is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stet.core.blocks import ARBITRATE, Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.verification import Verdict
from stet.policies.arbitration import REASONS, choices, settle
from stet.policies.checks import check_share
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class Random(TokenPolicy):
    """Where the models disagree, the draft's token stands by chance.

    What a policy gains over this one at the same rate is what it knows. The chance is the request's
    own, so a run can be repeated.

    Attributes:
        rate: the chance, 0 to 1.
    """

    rate: float = 0.5

    name: ClassVar[str] = "random"
    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS})
    reasons: ClassVar[tuple[str, ...]] = REASONS
    holds: ClassVar[bool] = True
    control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        check_share(self, "rate")

    def verify(self, blocks: Blocks) -> Verdict:
        """Rule on a batch of blocks."""
        found = choices(blocks)
        drawn = blocks.uniform(ARBITRATE, blocks.drafted.shape[1])
        return settle(blocks, found, drawn < self.rate)
