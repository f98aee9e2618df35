"""When a sequence ends, and how far ahead it drafts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stet.core.draft_length import DraftLength, FixedLength


@dataclass(frozen=True, slots=True)
class Limits:
    """When a sequence ends, and how far ahead it drafts.

    Attributes:
        max_new_tokens: the longest answer, in tokens.
        stop_token_ids: tokens that end it; the token counts as emitted but is not part of the text.
        stop_strings: texts that end it, wherever token boundaries fall; not part of the text.
        special: tokens that are no part of a text, with what they are called, where a stop string
            names them.
        draft_length: the rule for the length of a block.
        chunk: tokens of a longer stretch of drafting that are written in one round.
        probabilities: record both models' probability of each emitted token.
        target_probabilities: record the target's, whether or not the draft's are.
        top_logprobs: record this many of the target's most probable tokens at each position.
        stream: keep the text up to date after every round, for streaming.
        room: tokens that have a place in the caches behind the prompt: blocks and steps may reach
            beyond `max_new_tokens`, which only cuts the answer; None for no more than that.
    """

    max_new_tokens: int = 256
    stop_token_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    special: Mapping[int, str] = field(default_factory=dict[int, str])
    draft_length: DraftLength = field(default_factory=FixedLength)
    chunk: int = 16
    probabilities: bool = False
    target_probabilities: bool = False
    top_logprobs: int = 0
    stream: bool = False
    room: int | None = None
