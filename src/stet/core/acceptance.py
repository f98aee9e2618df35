"""A policy's decision about one block, once it has reached the host."""

from __future__ import annotations

from dataclasses import dataclass, field

from stet.core.block import Reading
from stet.core.trace import MismatchRecord

ACCEPTED_MISMATCH = "accepted_mismatch"
"""The reason under which a policy accepts a draft's token against the target's own choice."""

DRAFTED = "drafted"
"""The reason for a token that the draft wrote and that was not verified."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A policy's decision about one sequence's block, on the host.

    Attributes:
        drafted: the tokens of the block.
        accepted: how many of them are accepted, counted from the block's start.
        next_token: the token after the accepted ones (recovered, or the bonus token); None where
            the policy defers it.
        reasons: the reason for each accepted token, and then for the next one.
        p_target: raw probabilities of these tokens under the target, where recorded.
        p_draft: their raw probabilities under the draft, where recorded; None for a token that the
            draft was not asked about.
        top_logprobs: the target's most probable tokens at their positions, where recorded.
        target_seconds: this sequence's share of the time of the target's pass.
        draft_seconds: this sequence's share of the time of drafting.
        draft_passes: forward passes that wrote the block.
        reading: the target's statistics of the block's tokens, where asked for.
        mismatches: the mismatches that an arbitrating policy decided about.
    """

    drafted: list[int]
    accepted: int
    next_token: int | None
    reasons: list[str]
    p_target: list[float] | None = None
    p_draft: list[float | None] | None = None
    top_logprobs: list[dict[int, float]] | None = None
    target_seconds: float = 0.0
    draft_seconds: float = 0.0
    draft_passes: int = 0
    reading: Reading | None = None
    mismatches: list[MismatchRecord] = field(default_factory=list[MismatchRecord])
