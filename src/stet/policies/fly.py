"""FLy: a mismatch is let stand where the target hesitates and then follows the draft."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stet.policies.arbitration import REASONS, Choices, choices, settle
from stet.policies.base import Blocks, Need, Verdict
from stet.policies.checks import check_count, check_share
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class FLy:
    """Where the models disagree, the draft's token stands if the disagreement looks harmless.

    That is, if the target is unsure there (the entropy of its `top` most probable tokens, brought
    to sum 1, as a share of the largest possible) and agrees with all of the next `window - 1`
    drafted tokens, which it has read behind the disputed one. The last `window` positions of a
    block are never relaxed, so the text depends on the length of blocks, and blocks want to be
    long.

    Source: Li et al., "Training-Free Loosely Speculative Decoding", arXiv 2511.22972. Our reading:
    which tokens the entropy is of, and its unit.

    Attributes:
        entropy: the least doubt, 0 to 1.
        window: tokens from the disputed one on that must be left in the block.
        top: of how many tokens the entropy is; at least 2.
    """

    entropy: float = 0.3
    window: int = 6
    top: int = 3

    name: ClassVar[str] = "fly"
    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS})
    reasons: ClassVar[tuple[str, ...]] = REASONS

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        check_share(self, "entropy")
        check_count(self, "window")
        check_count(self, "top", least=2)

    def verify(self, blocks: Blocks) -> Verdict:
        """Rule on a batch of blocks."""
        found = choices(blocks)
        width = blocks.drafted.shape[1]
        if not width:
            return settle(blocks, found, found.agree, hold=False)
        top = min(self.top, blocks.raw_target_logits.shape[-1])
        best = blocks.target_best(top)[0][:, :width].softmax(-1)
        doubt = -(best * best.clamp(min=1e-30).log()).sum(-1) / math.log(top)
        relaxed = (doubt >= self.entropy) & self._followed(blocks, found)
        return settle(blocks, found, relaxed, hold=False)

    def _followed(self, blocks: Blocks, found: Choices) -> Tensor:
        """[B, K]: whether the models agree on what follows, far enough from the block's end."""
        width = blocks.drafted.shape[1]
        places = torch.arange(width, device=blocks.drafted.device)
        agreed = (found.agree & blocks.present).long().cumsum(1)
        last = (places + self.window - 1).clamp(max=width - 1)
        following = agreed[:, last] - agreed
        inside = places < (blocks.lengths[:, None] - self.window)
        return inside & (following == self.window - 1)
