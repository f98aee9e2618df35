"""Exact speculative decoding, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import ACCEPT, NEXT, Blocks
from stet.core.needs import Need
from stet.core.policy import STANDARD_REASONS, TokenPolicy
from stet.core.sampling import draw
from stet.core.tensors import at, prefix_length
from stet.core.verification import Verification
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class Exact(TokenPolicy):
    """Accept a drafted token with probability min(1, p/q), else draw from the residual of p.

    The emitted text follows the target's distribution exactly; at temperature 0 it is the target's
    own greedy text, up to rounding: a pass over a block adds up in another order than passes over
    single tokens, and where two tokens are nearly equal another one may come first. In float32
    that is rare; in half precision many longer texts differ somewhere. `stet doctor` counts them.

    Source: Leviathan et al., arXiv 2211.17192, algorithm 1; Chen et al., arXiv 2302.01318.
    """

    name: ClassVar[str] = "exact"
    lossless: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS})
    reasons: ClassVar[tuple[str, ...]] = STANDARD_REASONS

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        if blocks.all_greedy:
            return greedy_match(blocks, blocks.target_tokens)
        return rejection_sampling(blocks, blocks.target_probs)


def rejection_sampling(blocks: Blocks, probs: Tensor) -> Verification:
    """Accept drafted tokens so that the emitted ones follow `probs` [B, K + 1, V] exactly."""
    accepted = prefix_length(acceptance_mask(blocks, probs) & blocks.present)
    # The residual max(p - q, 0); after a whole block nothing was drafted, and it is p itself.
    p = at(probs, accepted)
    residual = p.sub(blocks.draft_share(accepted)).clamp_(min=0)
    return Verification(accepted, draw(or_else(residual, p), blocks.uniform(NEXT, 1)[:, 0]))


def acceptance_mask(blocks: Blocks, probs: Tensor) -> Tensor:
    """Where a drafted token passes the test u < p/q, [B, K] bool."""
    width = blocks.drafted.shape[1]
    token = blocks.drafted[..., None]
    p = probs[:, :width].gather(2, token).squeeze(2)
    # Without the division: a token of probability 0 under the target is never accepted.
    return blocks.uniform(ACCEPT, width) * blocks.drafted_probs < p


def greedy_match(blocks: Blocks, chosen: Tensor) -> Verification:
    """Accept drafted tokens up to the first that is not the most probable, `chosen` [B, K + 1]."""
    agrees = blocks.drafted == chosen[:, :-1]
    accepted = prefix_length(agrees if blocks.full else agrees & blocks.present)
    return Verification(accepted, chosen.gather(1, accepted[:, None]).squeeze(1))


def or_else(residual: Tensor, p: Tensor) -> Tensor:
    """The residual weights [B, V], or `p` where rounding left no residual.

    Where p and q coincide nothing should be rejected, but rounding can bring the ratio below 1.
    Then the residual is empty, and the token is drawn from the target's own distribution.

    Args:
        residual: overwritten.
        p: of the same shape.
    """
    empty = ~(residual.sum(-1, keepdim=True) > 0)
    return residual.masked_fill_(empty, 0.0).addcmul_(p, empty.to(p.dtype))
