"""FLy: accept mismatches where the target is uncertain and then agrees with the draft."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.verification import Mismatches
from stet.policies.checks import check_count
from stet.policies.mismatches import MismatchPolicy
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class FLy(MismatchPolicy):
    """At a mismatch, the draft's token is accepted if the target is uncertain and then agrees.

    The target is uncertain if -sum p log p over its `top` most probable tokens, in nats, is at
    least `entropy`; the probabilities are not renormalised. It has to agree with all of the next
    `window - 1` drafted tokens, which it has read after the draft's token. In the last `window`
    positions of a block no mismatch is accepted: `window` drafted tokens must follow it. So the
    policy is not block-invariant, and works best with long blocks.

    Source: Li et al., "Training-Free Loosely Speculative Decoding", arXiv 2511.22972, and the
    authors' code, from which the tokens and the unit of the entropy and the exception at the end of
    a block are taken.

    Attributes:
        entropy: the smallest entropy of the target, in nats; not negative.
        window: tokens from the mismatch on; the target must agree with all but the first.
        top: of how many tokens the entropy is taken; at least 2.
    """

    entropy: float = 0.3
    window: int = 6
    top: int = 3

    name: ClassVar[str] = "fly"
    defers_bonus: ClassVar[bool] = False
    block_invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not (self.entropy >= 0 and math.isfinite(self.entropy)):
            raise OptionError(f"entropy is {self.entropy}; it must not be negative.")
        check_count(self, "window")
        check_count(self, "top", least=2)

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        width = blocks.drafted.shape[1]
        top = min(self.top, blocks.raw_target_logits.shape[-1])
        best = blocks.target_best(top)[0][:, :width]
        # A token of probability 0 adds 0, not 0 times infinity.
        doubt = -(best.exp() * best.clamp(min=torch.finfo(best.dtype).min)).sum(-1)
        return (doubt >= self.entropy) & self._followed(blocks, mismatches)

    def _followed(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Whether the models agree on the next `window - 1` tokens of the block, [B, K] bool."""
        width = blocks.drafted.shape[1]
        places = torch.arange(width, device=blocks.drafted.device)
        agreed = (mismatches.agree & blocks.present).long().cumsum(1)
        last = (places + self.window - 1).clamp(max=width - 1)
        following = agreed[:, last] - agreed
        inside = places < (blocks.lengths[:, None] - self.window)
        return inside & (following == self.window - 1)
