"""Block verification: exact, and accepts more tokens than the token-by-token rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stet.core.blocks import ACCEPT, NEXT, Blocks
from stet.core.needs import Need
from stet.core.policy import STANDARD_REASONS, TokenPolicy
from stet.core.sampling import draw
from stet.core.tensors import at
from stet.core.verification import Verification
from stet.policies.exact import greedy_match, or_else
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class BlockVerification(TokenPolicy):
    """Verify the block as a whole: accept the longest prefix that passes a test of its joint ratio.

    The emitted text follows the target's distribution exactly. At temperature 0 the rule is that of
    `exact`: the text is the target's own greedy text, up to rounding.

    Source: Sun et al., "Block Verification Accelerates Speculative Decoding", arXiv 2403.10444,
    algorithm 2.
    """

    name: ClassVar[str] = "block"
    lossless: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS})
    reasons: ClassVar[tuple[str, ...]] = STANDARD_REASONS

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        if blocks.all_greedy:
            return greedy_match(blocks, blocks.target_tokens)
        joint = joint_ratios(blocks)
        accepted = torch.zeros_like(blocks.lengths)
        rows, width = blocks.drafted.shape
        u = blocks.uniform(ACCEPT, width)
        for i in range(1, width + 1):
            position = torch.full((rows,), i, device=accepted.device)
            left = left_over(blocks, joint[:, i], position).sum(-1)
            ahead = left / (left + 1 - joint[:, i]).clamp(min=torch.finfo(left.dtype).tiny)
            whole = blocks.lengths == i
            passes = u[:, i - 1] < torch.where(whole, joint[:, i], ahead)
            # No break at a rejection: a longer prefix may pass where a shorter one did not.
            accepted = torch.where(passes & (blocks.lengths >= i), position, accepted)
        ended = accepted == blocks.lengths
        p = at(blocks.target_probs, accepted)
        residual = left_over(blocks, joint.gather(1, accepted[:, None]).squeeze(1), accepted)
        weights = torch.where(ended[:, None], p, or_else(residual, p))
        return Verification(accepted, draw(weights, blocks.uniform(NEXT, 1)[:, 0]))


def joint_ratios(blocks: Blocks) -> Tensor:
    """The joint ratio of each prefix, capped at 1 after each token: [B, K + 1], starting from 1."""
    rows, width = blocks.drafted.shape
    token = blocks.drafted[..., None]
    p = blocks.target_probs[:, :width].gather(2, token).squeeze(2)
    q = blocks.drafted_probs
    ratio = p / q.clamp(min=torch.finfo(q.dtype).tiny)
    joint = [torch.ones(rows, device=p.device)]
    for i in range(width):
        joint.append((joint[-1] * ratio[:, i]).clamp(max=1))
    return torch.stack(joint, 1)


def left_over(blocks: Blocks, joint: Tensor, position: Tensor) -> Tensor:
    """The residual max(joint * p - q, 0) at `position` [B], as weights [B, V]."""
    left = at(blocks.target_probs, position).mul_(joint[:, None])
    return left.sub_(blocks.draft_share(position)).clamp_(min=0)
