"""A random arbiter: the control that every clever one is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import ARBITRATE, Blocks
from stet.core.verification import Mismatches
from stet.policies.checks import check_share
from stet.policies.mismatches import MismatchPolicy
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class Random(MismatchPolicy):
    """Where the models disagree, the draft's token stands by chance.

    What a policy gains over this one at the same rate is what it knows. The chance is the request's
    own, so a run can be repeated.

    Attributes:
        rate: the chance, 0 to 1.
    """

    rate: float = 0.5

    name: ClassVar[str] = "random"
    block_invariant: ClassVar[bool] = False
    control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        check_share(self, "rate")

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """See `MismatchPolicy`."""
        del mismatches
        return blocks.uniform(ARBITRATE, blocks.drafted.shape[1]) < self.rate
