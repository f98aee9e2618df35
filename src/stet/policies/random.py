"""A random arbiter: the control that other policies are compared with."""

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
    """At a mismatch, the draft's token is accepted at random, with a fixed probability.

    What a policy gains over this one at the same accepted-mismatch rate is due to its choices.
    Random numbers come from the request's seed, so that a run can be repeated.

    Attributes:
        rate: the probability, 0 to 1.
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
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        del mismatches
        return blocks.uniform(ARBITRATE, blocks.drafted.shape[1]) < self.rate
