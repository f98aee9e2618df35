"""Decoding from the mean of both models: a plain baseline for trained policies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stet.core.acceptance import ACCEPTED_MISMATCH
from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.verification import Verification
from stet.policies.exact import greedy_match, rejection_sampling
from stet.policies.mismatches import defer_bonus
from stet.policies.registry import register

SPACES = ("logprobs", "probs")


@register
@dataclass(frozen=True)
class Ensemble(TokenPolicy):
    """Decode from a weighted mean of both models' predictions, speculating with the draft's blocks.

    The emitted text is that of the mean alone: its most probable tokens at temperature 0, samples
    from it above. It does not depend on where blocks end. Predictions are averaged after the
    request's penalty and bias, so a weight of 0 is the target and a weight of 1 the draft.

    Attributes:
        weight: the draft's share, 0 to 1.
        space: what is averaged: "logprobs" (a normalised geometric mean) or "probs".
    """

    weight: float = 0.5
    space: str = "logprobs"

    name: ClassVar[str] = "ensemble"
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

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not 0 <= self.weight <= 1:
            raise OptionError(f"weight is {self.weight}; it must be between 0 and 1.")
        if self.space not in SPACES:
            raise OptionError(f"space is {self.space!r}; choose from {', '.join(SPACES)}.")

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        mean = self.combined(blocks)
        if blocks.all_greedy:
            verification = greedy_match(blocks, mean.argmax(-1))
            reasons = _reasons(blocks, verification)
        else:
            verification = rejection_sampling(blocks, blocks.distribution(mean))
            reasons = None
        accepted = verification.accepted
        return Verification(
            accepted, defer_bonus(blocks, accepted, verification.next_token), reasons
        )

    def combined(self, blocks: Blocks) -> Tensor:
        """Logits of the mean, [B, K + 1, V]; the target's own where nothing was drafted.

        A request's penalty and bias are applied to each model's logits first.
        """
        if not (blocks.drafted.shape[1] and self.weight):
            return blocks.target_logits
        p = blocks.target_logits.log_softmax(-1)
        own, other = p[:, :-1], blocks.draft_logits.log_softmax(-1)
        if self.weight == 1:
            mean = other
        elif self.space == "probs":
            mean = torch.logaddexp(own + math.log(1 - self.weight), other + math.log(self.weight))
        else:
            mean = (1 - self.weight) * own + self.weight * other
        mean = torch.where(blocks.present[..., None], mean, own)
        return torch.cat([mean, p[:, -1:]], 1)


def _reasons(blocks: Blocks, verification: Verification) -> Tensor:
    """The reason of each token, [B, K + 1]: the target's own choice, the draft's, or the mean's."""
    own = blocks.target_tokens
    accepted = verification.accepted[:, None]
    reasons = torch.zeros_like(own)
    reasons[:, :-1] = torch.where(blocks.drafted == own[:, :-1], 0, 3)
    following = torch.where(verification.next_token[:, None] == own.gather(1, accepted), 1, 4)
    return reasons.scatter_(
        1, accepted, torch.where(accepted == blocks.lengths[:, None], 2, following)
    )
