"""A policy's decision about one block, once it has reached the host."""

from __future__ import annotations

from dataclasses import dataclass, field

from stet.core.block import Reading
from stet.core.trace import MismatchRecord

ACCEPTED_MISMATCH = "accepted_mismatch"
"""The reason under which a policy keeps a draft's token against the target's own choice."""

DRAFTED = "drafted"
"""The reason of a token that the draft wrote and nobody verified."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a policy decided about one sequence's block, on the host.

    Attributes:
        drafted: the block.
        accepted: how many of its tokens stand.
        next_token: the token after them; None where the policy holds it back.
        reasons: why, for each kept token and then for the next one.
        p_target: raw probabilities of the same tokens under the target, where recorded.
        p_draft: the same under the draft, None where it had no opinion.
        top_logprobs: the target's most probable tokens at the same positions, where recorded.
        target_seconds: this sequence's share of the target's pass.
        draft_seconds: the same for the draft.
        draft_passes: forward passes that wrote the block.
        reading: what the target thinks of the block's tokens, where asked for.
        mismatches: what an arbitrating policy came to decide.
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
