"""Block lengths of a full round, where texts do not depend on them.

A rule of `stet.core.draft_length` sees one sequence. What a block costs depends on the others, too:
verifying is nearly free while a pass waits for the weights, and stops being so once the pass is
full. Where a text is the same whatever its blocks are, they are fitted here to the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stet.core.draft_length import AdaptiveLength, expected_tokens
from stet.core.operations import Draft
from stet.engine.costs import Costs
from stet.engine.current_costs import CurrentCosts

MARGIN = 1.03
"""How much faster than plain decoding a round must look, since costs are measured with noise."""


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
class Plan:
    """The best block length of a round.

    Attributes:
        length: the most tokens that each sequence drafts.
        rate: tokens per second of all sequences together that are then expected.
    """

    length: int
    rate: float


def fit_blocks(drafts: Sequence[Draft], others: int, current: CurrentCosts) -> None:
    """Shorten the blocks of a round that several requests share, where texts allow it.

    Args:
        drafts: the round's drafts; those whose `least` is set are changed.
        others: further sequences that wait for the target.
        current: costs of passes; those of batches are measured from now on.
    """
    elastic = [draft for draft in drafts if draft.least is not None]
    rows = len(drafts) + others
    if not elastic or rows < 2:
        return
    current.measure_batches()
    costs = current.latest
    if costs is None:
        return
    given = [draft.count for draft in drafts if draft.least is None]
    rest = Rest(others + sum(given) + len(given), others + sum(1 + n / 2 for n in given))
    rates = [_acceptance(draft) for draft in elastic]
    longest = max(draft.count for draft in elastic)
    plan = best_plan(rates, rest, longest, costs)
    for draft, acceptance in zip(elastic, rates, strict=True):
        assert draft.least is not None
        draft.count = min(draft.count, max(plan.length, draft.least))
        if draft.floor is None and draft.count:
            position = (draft.count + 1) * len(elastic) + rest.positions
            dearer = costs.target_pass(position + len(elastic)) - costs.target_pass(position)
            cost = (costs.draft_pass(len(elastic)) + max(dearer, 0.0)) / len(elastic)
            draft.floor = max(draft.sequence.floor(), min(cost * plan.rate / acceptance, 0.9))


def best_plan(acceptances: Sequence[float], rest: Rest, longest: int, costs: Costs) -> Plan:
    """Find the length with most expected tokens per second; 0 where none beats plain decoding.

    Args:
        acceptances: for each sequence the probability that a drafted token is accepted.
        rest: what else is in the round.
        longest: lengths beyond this are not considered.
        costs: seconds of passes.
    """
    rows = len(acceptances)
    step = costs.draft_pass(rows)

    def rate(length: int) -> float:
        tokens = rest.tokens + sum(expected_tokens(a, length) for a in acceptances)
        return tokens / (costs.target_pass(rows * (length + 1) + rest.positions) + length * step)

    plain = Plan(0, rate(0))
    best = max((Plan(n, rate(n)) for n in range(1, longest + 1)), key=lambda plan: plan.rate)
    return best if best.rate > MARGIN * plain.rate else plain


def _acceptance(draft: Draft) -> float:
    rule = draft.sequence.limits.draft_length
    assert isinstance(rule, AdaptiveLength)
    return rule.acceptance(draft.sequence.history)
