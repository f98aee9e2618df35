"""Speculative decoding, block by block."""

from __future__ import annotations

from collections.abc import Callable

from stet.core.operations import Draft, Program, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence


def never(sequence: TokenSequence) -> bool:
    """Nothing but the sequence's own limits ends the program."""
    del sequence
    return False


def speculative(
    sequence: TokenSequence,
    policy: TokenPolicy,
    ended: Callable[[TokenSequence], bool] = never,
    until: Callable[[], Callable[[list[int]], bool]] | None = None,
) -> Program:
    """Draft a block, score it in one target pass, let the policy rule.

    Args:
        sequence: what is written to.
        policy: rules on blocks.
        ended: whether the sequence is long enough.
        until: makes, for each block, what ends its drafting early; see `Draft.until`.
    """
    bonus = not policy.defers_bonus
    # A limit only cuts. Where a text depends on where its blocks end, the last one is as long as
    # it would be without the limit; elsewhere nothing need be drafted that is cut.
    beyond = not (sequence.sampling.greedy and policy.block_invariant)
    while not (sequence.finished or ended(sequence)):
        size = sequence.block_size(bonus=bonus, beyond=beyond)
        block = yield Draft(sequence, size, until and until(), needs=policy.needs)
        sequence.commit((yield Score(sequence, block, policy)))
