"""What a token policy returns for a batch of blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

HOLD = -1
"""As `Verdict.next_token`: nothing follows the kept tokens; the next block is ruled on afresh."""


@dataclass(frozen=True, slots=True)
class Disputes:
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
class Verdict:
    """A ruling on a batch of B blocks.

    Attributes:
        kept: [B] int64, how many drafted tokens stand, counted from the block's start.
        next_token: [B] int64, the token after them (a correction, a resampled token or a bonus), or
            `HOLD`.
        reasons: [B, K + 1] integers into the policy's `reasons`: entries before `kept` say why a
            drafted token stands, entry `kept` why the next token was chosen. None: reason 0 for
            kept tokens, 1 for a next token inside the block, 2 for one after a whole block.
        disputes: what an arbitrating policy weighed; the trace lists those that it came to.
    """

    kept: Tensor
    next_token: Tensor
    reasons: Tensor | None = None
    disputes: Disputes | None = None


@dataclass(frozen=True, slots=True)
class Choices:
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
