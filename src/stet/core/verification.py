"""Verification: a token policy's decision about a batch of blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

DEFERRED = -1
"""In `Verification.next_token`: the token is deferred. Nothing follows the accepted tokens yet; the
next block's first token is decided on in its place."""


@dataclass(frozen=True, slots=True)
class ScoredMismatches:
    """Mismatches of B blocks with their scores, for the trace. All [B, K] unless said otherwise.

    Attributes:
        where: bool, positions of the mismatches.
        target: int64, the token that the target would have put there.
        score: float32, the probability that the draft's token is the one to accept, as the policy
            computes it.
        features: [B, K, F] float32, what the score is computed from; None unless the policy is
            asked to record it.
    """

    where: Tensor
    target: Tensor
    score: Tensor
    features: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """A token policy's decision about a batch of B blocks, on the device.

    Attributes:
        accepted: [B] int64, how many drafted tokens are accepted, from the block's start.
        next_token: [B] int64, the token after them (recovered from the target, or a bonus), or
            `DEFERRED`.
        reasons: [B, K + 1] integers into the policy's `reasons`: entries before `accepted` say why
            a drafted token was, entry `accepted` why the next token was chosen. None: reason 0 for
            accepted tokens, 1 for a next token inside the block, 2 for one after a whole block.
        mismatches: the mismatches that an arbitrating policy scored; the trace lists those up to
            the first rejected token.
    """

    accepted: Tensor
    next_token: Tensor
    reasons: Tensor | None = None
    mismatches: ScoredMismatches | None = None


@dataclass(frozen=True, slots=True)
class Mismatches:
    """Where the models of a batch of blocks agree, and the target's token at each position.

    At temperature 0 the models agree where the drafted token is the target's most probable one.
    When sampling they agree where the exact rule would accept the drafted token, and the target's
    own token is the one that this rule would draw instead. Elsewhere there is a mismatch.

    Attributes:
        agree: [B, K] bool.
        target: [B, K + 1] int64, the token the target would put at each position.
    """

    agree: Tensor
    target: Tensor
