"""What policies share that decode from a distribution made of both models'."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from stet.core.acceptance import ACCEPTED_MISMATCH
from stet.core.blocks import Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.verification import Verification
from stet.core.wide import peak
from stet.policies.exact import greedy_match, rejection_sampling
from stet.policies.mismatches import defer_bonus


class CombinedPolicy(TokenPolicy):
    """A token policy that decodes from a distribution made of both models'.

    A subclass defines one method, `combined`. The emitted text is that of its distribution alone:
    the most probable tokens at temperature 0, samples from it above. The bonus token is deferred,
    so the text does not depend on where blocks end.
    """

    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS, Need.DRAFT_LOGPROBS})
    reasons: ClassVar[tuple[str, ...]] = (
        "accepted",
        "recovered",
        "bonus",
        ACCEPTED_MISMATCH,
        "combined",
    )
    defers_bonus: ClassVar[bool] = True
    block_invariant: ClassVar[bool] = True
    unanimous: ClassVar[bool] = False
    """Whether the first choice of both models, where it is the same token, is the combination's.

    Greedy text on a CPU then takes the combination at mismatches only."""

    @abstractmethod
    def combine(self, target: Tensor, draft: Tensor) -> Tensor:
        """Combine the models' log-probabilities, both [B, K, V], into logits of the same shape.

        A request's penalty and bias are in both; temperature and truncation come afterwards.
        """

    def combined(self, blocks: Blocks) -> Tensor:
        """Logits to decode from, [B, K + 1, V]; the target's own where nothing was drafted."""
        if not blocks.drafted.shape[1]:
            return blocks.target_logits
        p = blocks.target_logits.log_softmax(-1)
        own, other = p[:, :-1], blocks.draft_logits.log_softmax(-1)
        mixed = torch.where(blocks.present[..., None], self.combine(own, other), own)
        return torch.cat([mixed, p[:, -1:]], 1)

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        if blocks.all_greedy:
            verification = greedy_match(blocks, self._choices(blocks))
            reasons = _reasons(blocks, verification)
        else:
            verification = rejection_sampling(blocks, blocks.distribution(self.combined(blocks)))
            reasons = None
        accepted = verification.accepted
        return Verification(
            accepted, defer_bonus(blocks, accepted, verification.next_token), reasons
        )

    def _choices(self, blocks: Blocks) -> Tensor:
        """The combination's first choices, [B, K + 1], as far as the block is accepted."""
        if not self.unanimous or blocks.drafted.device.type != "cpu":
            return peak(self.combined(blocks))[1]
        choices = blocks.target_tokens.clone()
        mismatch = (blocks.drafted != choices[:, :-1]) & blocks.present
        ended: set[int] = set()
        # One by one, for over a large vocabulary each takes as long as a small layer.
        for row, place in mismatch.nonzero().tolist():
            if row in ended:
                continue
            p = blocks.target_logits[row, place].log_softmax(-1)
            q = blocks.edited_draft_row(row, place).log_softmax(-1)
            found = peak(self.combine(p[None, None], q[None, None]))[1][0, 0]
            choices[row, place] = found
            if found != blocks.drafted[row, place]:
                ended.add(row)
        return choices


def _reasons(blocks: Blocks, verification: Verification) -> Tensor:
    """The reason of each token, [B, K + 1]: the target's own choice, the draft's, or of both."""
    own = blocks.target_tokens
    accepted = verification.accepted[:, None]
    reasons = torch.zeros_like(own)
    reasons[:, :-1] = torch.where(blocks.drafted == own[:, :-1], 0, 3)
    following = torch.where(verification.next_token[:, None] == own.gather(1, accepted), 1, 4)
    return reasons.scatter_(
        1, accepted, torch.where(accepted == blocks.lengths[:, None], 2, following)
    )
