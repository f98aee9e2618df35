"""Block lengths of a full round, where texts do not depend on them.

A rule of `stet.core.draft_length` sees one sequence. What a block costs depends on the others, too:
verifying is nearly free while a pass waits for the weights, and stops being so once the pass is
full. Where a text is the same whatever its blocks are, they are fitted here to the round. Before a
draft writes anything it has to read all that was written without it, which has to be earned back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stet.core.draft_length import AdaptiveLength, expected_tokens
from stet.core.operations import Draft
from stet.core.sequence import TokenSequence
from stet.engine.costs import Costs
from stet.engine.drafting import OVERLAP
from stet.engine.round_times import LONGEST_TRIAL, TRIAL, RoundTimes

MARGIN = 1.03
"""How much faster than plain decoding a round must look, since costs are measured with noise."""

TRIED = 0.03
"""A trial may have the draft read for this share of the time that the rest of the answers takes."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The sequences of a round whose blocks are as they are.

    Attributes:
        positions: their tokens in the target's pass.
        tokens: the tokens that are expected of them.
    """

    positions: int = 0
    tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the draft has to read before it can write.

    Attributes:
        seconds: that it takes.
        left: the most tokens that are still to be written, over which it is earned back.
    """

    seconds: float = 0.0
    left: float = math.inf


@dataclass(frozen=True, slots=True)
class Plan:
    """The best block length of a round.

    Attributes:
        length: the most tokens that each sequence drafts.
        rate: tokens per second of all sequences together that are then expected.
    """

    length: int
    rate: float


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is expected of a sequence's block.

    Attributes:
        acceptance: probability that a drafted token is accepted.
        bonus: whether a token follows a block that is accepted whole.
        least: tokens of its shortest block.
    """

    acceptance: float
    bonus: bool = True
    least: int = 0

    def tokens(self, length: int) -> float:
        """Expected tokens of a block of up to so many."""
        # Without a bonus token the block's last one comes as that does otherwise: if all else did.
        return expected_tokens(self.acceptance, max(length, self.least) - (not self.bonus))

    def positions(self, length: int) -> int:
        """Tokens of it in the target's pass."""
        return max(length, self.least) + self.bonus


def fit_blocks(
    drafts: Sequence[Draft], others: int, costs: Costs, times: RoundTimes | None = None
) -> None:
    """Shorten the blocks of a round that several requests share, where texts allow it.

    Args:
        drafts: the round's drafts; those whose `least` is set are changed.
        others: further sequences that wait for the target.
        costs: of passes.
        times: of the rounds so far; None: the costs alone decide.
    """
    elastic = [draft for draft in drafts if draft.least is not None]
    rows = len(drafts) + others
    if not elastic or rows < 2:
        return
    reading = Reading(
        costs.reading * sum(_unread(draft.sequence) for draft in elastic),
        sum(draft.sequence.remaining for draft in elastic),
    )
    if times is not None:
        costs = times.corrected(costs)
    given = [draft for draft in drafts if draft.least is None]
    rest = Rest(
        others + sum(draft.count + draft.bonus for draft in given),
        others + sum(1 + draft.count / 2 for draft in given),
    )
    prospects = [_prospect(draft) for draft in elastic]
    longest = max(draft.count for draft in elastic)
    plan = best_plan(prospects, rest, longest, costs, reading)
    # Who has to draft in any case tries nothing else.
    if times is not None and longest and not all(prospect.least for prospect in prospects):
        plan = _try_out(plan, prospects, rest, longest, costs, times, reading)
    for draft, prospect in zip(elastic, prospects, strict=True):
        assert draft.least is not None
        draft.count = min(draft.count, max(plan.length, draft.least))
        if draft.floor is None and draft.count:
            position = prospect.positions(draft.count) * len(elastic) + rest.positions
            dearer = costs.target_pass(position + len(elastic)) - costs.target_pass(position)
            cost = (costs.draft_pass(len(elastic)) + max(dearer, 0.0)) / len(elastic)
            draft.floor = max(
                draft.sequence.floor(), min(cost * plan.rate / prospect.acceptance, 0.9)
            )


def _try_out(
    plan: Plan,
    prospects: Sequence[Prospect],
    rest: Rest,
    longest: int,
    costs: Costs,
    times: RoundTimes,
    reading: Reading,
) -> Plan:
    """Now and then take what was not chosen for long, since only rounds show what it takes."""
    if plan.length:
        if times.drafted == 0:
            times.trial = TRIAL  # drafting pays at present
        return Plan(0, plan.rate) if times.plain >= TRIAL else plan
    if times.drafted < times.trial or reading.seconds > TRIED * reading.left / plan.rate:
        return plan
    times.trial = min(2 * times.trial, LONGEST_TRIAL)
    return best_plan(prospects, rest, longest, costs, plain=False)


def best_plan(
    prospects: Sequence[Prospect],
    rest: Rest,
    longest: int,
    costs: Costs,
    reading: Reading = Reading(),
    *,
    plain: bool = True,
) -> Plan:
    """Find the length with most expected tokens per second; 0 where none beats plain decoding.

    Args:
        prospects: of the sequences.
        rest: what else is in the round.
        longest: lengths beyond this are not considered.
        costs: seconds of passes.
        reading: what the draft has to read first.
        plain: whether the length may be 0.
    """
    least = max(prospect.least for prospect in prospects)

    def rate(length: int) -> float:
        tokens = rest.tokens + sum(prospect.tokens(length) for prospect in prospects)
        positions = rest.positions + sum(prospect.positions(length) for prospect in prospects)
        drafted = max(length, least)
        # Who has to draft does so also where the others rest.
        rows = len(prospects) if length else sum(prospect.least > 0 for prospect in prospects)
        drafting = drafted * costs.draft_pass(rows) if drafted else 0.0
        return tokens / (costs.target_pass(positions) + drafting)

    none = Plan(0, rate(0))
    if not longest:
        return none
    best = max((Plan(n, rate(n)) for n in range(1, longest + 1)), key=lambda plan: plan.rate)
    earned = 1 / (1 / best.rate + reading.seconds / reading.left)
    return best if not plain or earned > MARGIN * none.rate else none


def _unread(sequence: TokenSequence) -> int:
    """Tokens of a sequence that the draft has not read, beyond those that it always reads again."""
    holder: TokenSequence | None = sequence
    while holder is not None and "draft" not in holder.rows:
        holder = holder.parent
    known = 0 if holder is None else min(holder.rows["draft"].valid, len(holder.tokens))
    return max(len(sequence.tokens) - known - OVERLAP, 0)


def _prospect(draft: Draft) -> Prospect:
    rule = draft.sequence.limits.draft_length
    assert isinstance(rule, AdaptiveLength)
    assert draft.least is not None
    return Prospect(rule.acceptance(draft.sequence.history), draft.bonus, draft.least)
