"""What is recorded of one emitted token beside its id."""

from __future__ import annotations

from dataclasses import dataclass

from stet.core.trace import Origin


@dataclass(slots=True)
class Emitted:
    """What is recorded of one emitted token beside its id.

    Attributes:
        origin: the model that wrote it.
        reason: why it was emitted, one of the policy's reasons.
        p_target: the target's raw probability of it, where recorded.
        p_draft: the draft's raw probability of it, where recorded.
        top_logprobs: the target's most probable tokens there, where recorded.
    """

    origin: Origin
    reason: str
    p_target: float | None = None
    p_draft: float | None = None
    top_logprobs: dict[int, float] | None = None
