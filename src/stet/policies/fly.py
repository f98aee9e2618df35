"""FLy: a mismatch is let stand where the target hesitates and then follows the draft."""

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
    """Where the models disagree, the draft's token stands if the disagreement looks harmless.

    That is, if the target is unsure there (-sum p log p over its `top` most probable tokens, in
    nats, with their probabilities as they are: they do not sum to 1) and agrees with all of the
    next `window - 1` drafted tokens, which it has read behind the disputed one. The last `window`
    positions of a block are never relaxed: `window` drafted tokens must follow the disputed one. So
    the text depends on the length of blocks, and blocks want to be long.

    Source: Li et al., "Training-Free Loosely Speculative Decoding", arXiv 2511.22972, and the
    authors' code, which has the entropy's tokens and unit and where a block is not relaxed.

    Attributes:
        entropy: the least doubt, in nats; not negative.
        window: tokens from the disputed one on of which the target must agree with all others.
        top: of how many tokens the entropy is; at least 2.
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
        """See `MismatchPolicy`."""
        width = blocks.drafted.shape[1]
        top = min(self.top, blocks.raw_target_logits.shape[-1])
        best = blocks.target_best(top)[0][:, :width]
        # A token without any probability adds 0, not 0 times infinity.
        doubt = -(best.exp() * best.clamp(min=torch.finfo(best.dtype).min)).sum(-1)
        return (doubt >= self.entropy) & self._followed(blocks, mismatches)

    def _followed(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """[B, K]: whether the models agree on what follows, far enough from the block's end."""
        width = blocks.drafted.shape[1]
        places = torch.arange(width, device=blocks.drafted.device)
        agreed = (mismatches.agree & blocks.present).long().cumsum(1)
        last = (places + self.window - 1).clamp(max=width - 1)
        following = agreed[:, last] - agreed
        inside = places < (blocks.lengths[:, None] - self.window)
        return inside & (following == self.window - 1)
