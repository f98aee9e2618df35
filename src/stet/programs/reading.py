"""Reading a text: the target's log-probability of each of its tokens, piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from stet.core.block import Block, Reading
from stet.core.operations import Operation, Score
from stet.core.sequence import TokenSequence


def reading(
    sequence: TokenSequence, text: Sequence[int], *, piece: int, top: int = 0
) -> Generator[Operation, Any, Reading]:
    """The target reads a text that continues a sequence, and nothing is decided about it.

    All of the text goes through the target, also where the cache holds its beginning already: the
    cache holds no logits.

    Args:
        sequence: what is before the text, at least one token; the text is appended to it.
        text: the tokens that are read.
        piece: the most tokens of a pass, whose logits are all held at a time.
        top: how many of the most probable tokens are kept at each place.

    Returns:
        The statistics of the text's tokens.
    """
    whole = Reading([], [])
    for start in range(0, len(text), piece):
        tokens = list(text[start : start + piece])
        block = Block(len(tokens), known=tokens)
        # What follows the last token is the next piece's first position, or nobody's.
        part: Reading = yield Score(sequence, block, None, after=False, top=top)
        sequence.tokens += tokens
        whole.logprobs.extend(part.logprobs)
        whole.margins.extend(part.margins)
        whole.ranks.extend(part.ranks)
        whole.top.extend(part.top)
    return whole
