"""Where greedy texts of speculation and of the target alone differ, and if rounding explains it.

The texts are equal as far as a pass over a block gives exactly the logits of passes over single
tokens. The two sum in different orders, so where the target's two best tokens are nearly equal
either may come first; in half precision that happens in many longer texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.core.trace import RequestTrace
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.pair import Pair
    from stet.requests.inputs import Prompt

LARGEST_ROUNDING = {"float32": 0.01, "float16": 0.125, "bfloat16": 1.0}
"""Nats of margin between a target's two best tokens that rounding may overcome, by dtype.

A pass over a block sums in another order than a pass over a single token. In bfloat16 logits of
published models differ by up to 1 (`benchmarks/equality.py`), though the tokens that changed had
margins of about a tenth of that. A fault overcomes several nats. float16 has three bits more than
bfloat16, float32 sixteen.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where speculation at temperature 0 first wrote another token than the target alone.

    Attributes:
        prompt: number of the prompt, from 0.
        position: position of the token in the answer, from 0.
        target: the target's own token, as text; empty where its answer had ended.
        other: the token that was written in its place; empty where that answer had ended.
        margin: log-probability of the target's best token there minus that of its second best, in
            nats, in its own pass over a single token; None where it could not be found again.
        is_rounding: whether rounding in the dtype in use explains the difference.
    """

    prompt: int
    position: int
    target: str
    other: str
    margin: float | None
    is_rounding: bool


def differences(
    pair: Pair,
    prompts: Sequence[Prompt],
    plain: Sequence[RequestTrace],
    other: Sequence[RequestTrace],
    *,
    batch: int = 1,
) -> list[Difference]:
    """Find where texts at temperature 0 differ, and the target's margin there.

    Each batch with such a text is decoded again by the target alone, up to that position.

    Args:
        pair: the models.
        prompts: the prompts that were answered, at least.
        plain: the answers of the target alone.
        other: the answers of speculation, in the same order.
        batch: prompts that were decoded together.
    """
    found: list[Difference] = []
    for start in range(0, len(plain), batch):
        pairs = list(zip(plain, other, strict=True))[start : start + batch]
        places = [_first_difference(*both) for both in pairs]
        if all(place is None for place in places):
            continue
        longest = max(place for place in places if place is not None) + 1
        again = pair.generate(
            list(prompts[start : start + batch]),
            "target",
            max_new_tokens=longest,
            fit=True,  # a long prompt may leave less room, and the text then ends earlier
            logprobs=2,
            **PINNED,
        )
        dtype = str(pair.models[0].dtype).removeprefix("torch.")
        limit = LARGEST_ROUNDING[dtype]
        for row, place in enumerate(places):
            if place is not None:
                margin = _margin(again[row].trace, pairs[row][0], place)
                ours, theirs = (_text(trace, place) for trace in pairs[row])
                is_rounding = margin is not None and margin <= limit
                found.append(Difference(start + row, place, ours, theirs, margin, is_rounding))
    return found


def _first_difference(one: RequestTrace, other: RequestTrace) -> int | None:
    """The position at which two answers first differ; None where they are equal."""
    ours, theirs = ([token.id for token in trace.tokens] for trace in (one, other))
    if ours == theirs:
        return None
    both = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(ours), len(theirs)))


def _text(trace: RequestTrace, place: int) -> str:
    """The text of a token of an answer; empty behind its end."""
    return trace.tokens[place].text if place < len(trace.tokens) else ""


def _margin(again: RequestTrace, before: RequestTrace, place: int) -> float | None:
    """The target's margin at a position of an answer that was decoded again."""
    tokens = [token.id for token in again.tokens]
    if len(tokens) <= place or tokens[:place] != [token.id for token in before.tokens[:place]]:
        return None
    top = again.tokens[place].top_logprobs
    if top is None or len(top) < 2:
        return None
    first, second = sorted(top.values(), reverse=True)[:2]
    return first - second
