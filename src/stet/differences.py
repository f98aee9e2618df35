"""Where greedy texts of speculation and of the target alone part, and whether rounding explains it.

The promise of equal texts holds as far as a pass over a block gives the very logits that passes
over single tokens give. They add up in another order, so where a target's two best tokens are
nearly equal either may come first; in half precision that happens in many longer texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.options import PINNED
from stet.trace import RequestTrace

if TYPE_CHECKING:
    from stet.inputs import Prompt
    from stet.pair import Pair

LARGEST_ROUNDING = {"float32": 0.01, "float16": 0.125, "bfloat16": 1.0}
"""Nats of margin between a target's two best tokens that rounding may overcome, by dtype.

A pass over a block adds up in another order than one over a single token. In bfloat16 logits of
published models are up to 1 apart (`benchmarks/equality.py`), though the tokens that changed had
margins of a tenth of that. A fault overcomes several nats. The other dtypes have three bits more,
and sixteen.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where speculation at temperature 0 first wrote another token than the target alone.

    Attributes:
        prompt: number of the prompt, from 0.
        position: of the token in the answer, from 0.
        target: the target's own token, as text; empty where its answer had ended.
        other: the token that was written in its place; likewise.
        margin: log-probability of the target's best token there less that of its second best, in
            nats, in its own pass over a single token; None where it could not be found again.
        is_rounding: whether rounding in the dtype in use explains that.
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
    """Where texts at temperature 0 part, and how sure the target was of its own token there.

    Each batch with such a text is decoded again by the target alone, up to there.

    Args:
        pair: the models.
        prompts: those that were answered, at least.
        plain: the answers of the target alone.
        other: those of speculation, in the same order.
        batch: prompts that were decoded together.
    """
    found: list[Difference] = []
    for start in range(0, len(plain), batch):
        pairs = list(zip(plain, other, strict=True))[start : start + batch]
        places = [_parting(*both) for both in pairs]
        if all(place is None for place in places):
            continue
        longest = max(place for place in places if place is not None) + 1
        again = pair.generate(
            list(prompts[start : start + batch]),
            "target",
            max_new_tokens=longest,
            fit=True,  # beside a long prompt there may be less room, and its own text ends before
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


def _parting(one: RequestTrace, other: RequestTrace) -> int | None:
    """Where two answers first differ; None where they do not."""
    ours, theirs = ([token.id for token in trace.tokens] for trace in (one, other))
    if ours == theirs:
        return None
    both = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(ours), len(theirs)))


def _text(trace: RequestTrace, place: int) -> str:
    """A token of an answer as text; empty behind its end."""
    return trace.tokens[place].text if place < len(trace.tokens) else ""


def _margin(again: RequestTrace, before: RequestTrace, place: int) -> float | None:
    """The margin at a place of an answer that was written again."""
    tokens = [token.id for token in again.tokens]
    if len(tokens) <= place or tokens[:place] != [token.id for token in before.tokens[:place]]:
        return None
    top = again.tokens[place].top_logprobs
    if top is None or len(top) < 2:
        return None
    first, second = sorted(top.values(), reverse=True)[:2]
    return first - second
