"""What a token policy returns for a batch of blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

DEFERRED = -1
"""As `Verification.next_token`: nothing follows the accepted tokens yet; the next block's first
token is ruled on in its place."""


@dataclass(frozen=True, slots=True)
class ScoredMismatches:
    """Where the models of B blocks disagreed, for the record. All [B, K] unless said otherwise.

    Attributes:
        where: bool, positions at which they disagreed.
        target: int64, the token that the target would have put there.
        score: float32, the probability that the draft's token is the one to keep, as the policy
            reckons it.
        features: [B, K, F] float32, what it reckons from; kept where it is asked to record.
    """

    where: Tensor
    target: Tensor
    score: Tensor
    features: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """A ruling on a batch of B blocks.

    Attributes:
        accepted: [B] int64, how many drafted tokens stand, counted from the block's start.
        next_token: [B] int64, the token after them (recovered from the target, or a bonus), or
            `DEFERRED`.
        reasons: [B, K + 1] integers into the policy's `reasons`: entries before `accepted` say why
            a drafted token was, entry `accepted` why the next token was chosen. None: reason 0 for
            accepted tokens, 1 for a next token inside the block, 2 for one after a whole block.
        mismatches: what an arbitrating policy weighed; the trace lists those that it came to.
    """

    accepted: Tensor
    next_token: Tensor
    reasons: Tensor | None = None
    mismatches: ScoredMismatches | None = None


@dataclass(frozen=True, slots=True)
class Mismatches:
    """What each model wants at each position of a batch of blocks.

    At temperature 0 the models agree where the drafted token is the target's first choice. When
    sampling they agree where the exact rule would accept the drafted token, and the target's own
    token is what that rule would draw instead.

    Attributes:
        agree: [B, K] bool.
        target: [B, K + 1] int64, the token the target would put at each position.
    """

    agree: Tensor
    target: Tensor
