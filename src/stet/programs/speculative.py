"""Speculative decoding, block by block."""

from __future__ import annotations

from collections.abc import Callable

from stet.core.draft_length import AdaptiveLength
from stet.core.needs import Need
from stet.core.operations import Draft, Program, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence


def never(sequence: TokenSequence) -> bool:
    """Return false: nothing but the sequence's own limits ends the program."""
    del sequence
    return False


def speculative(
    sequence: TokenSequence,
    policy: TokenPolicy,
    ended: Callable[[TokenSequence], bool] = never,
    until: Callable[[], Callable[[list[int]], bool]] | None = None,
) -> Program:
    """Draft a block, score it in one target pass, let the policy verify it; and so on.

    Args:
        sequence: the sequence that is continued.
        policy: verifies the blocks.
        ended: whether the sequence is long enough.
        until: makes, for each block, the function that ends its drafting early; see `Draft.until`.
    """
    bonus = not policy.defers_bonus
    after = bonus or Need.TARGET_AFTER in policy.needs
    # A limit only cuts. Where a text depends on where its blocks end, the last one is as long as
    # it would be without the limit; elsewhere tokens that would be cut need not be drafted.
    beyond = not (sequence.sampling.greedy and policy.block_invariant)
    rule = sequence.limits.draft_length
    adapts = isinstance(rule, AdaptiveLength) and rule.fits
    # A lenient policy decides about every token of the draft, so that there is always one.
    least = int(not policy.lossless) if adapts and not beyond else None
    shortlist = policy.lossless and sequence.sampling.greedy
    while not (sequence.finished or ended(sequence)):
        size = sequence.block_size(bonus=bonus, beyond=beyond)
        block = yield Draft(
            sequence,
            size,
            until and until(),
            needs=policy.needs,
            shortlist=shortlist,
            least=least,
            bonus=bonus,
        )
        sequence.commit((yield Score(sequence, block, policy, after=after)))
