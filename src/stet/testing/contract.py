"""The contract of token policies, whatever they decide."""

from __future__ import annotations

import torch
from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy, parameters
from stet.core.verification import DEFERRED, Verification
from stet.testing.worlds import READABLE, draft_blocks, make_world

LENGTHS = torch.tensor([3, 1, 0, 2, 3, 3, 1, 2])
"""Lengths of the blocks of a ragged batch, one of them empty."""


def check_contract(policy: TokenPolicy) -> None:
    """Check that a policy can share batches with others, be recorded, and be made again.

    It checks shapes and types; that neither padding nor batch-mates change a decision; that
    everything the policy reads is declared in its `needs`; that the same randomness gives the same
    decision; and that the policy is defined by its parameters alone.

    Raises:
        AssertionError: the policy breaks the contract, and how.
    """
    name = type(policy).__name__
    assert policy.needs <= READABLE, (
        f"{name} needs hidden states or captured attention, which this check cannot show"
    )
    made = type(policy)(**parameters(policy))
    assert made == policy, f"{name} is not the same when made again of its parameters"
    for greedy in (True, False):
        for seed, kind in enumerate(("random", "zeros", "equal", "near-disjoint")):
            _check_batch(policy, kind, seed, greedy)


def _check_batch(policy: TokenPolicy, kind: str, seed: int, greedy: bool) -> None:
    name = type(policy).__name__
    where = f"(draft of the kind {kind!r}, {'temperature 0' if greedy else 'sampled'})"
    world = make_world(kind, seed=seed)

    def blocks(pad: int = 0, only: int | None = None) -> Blocks:
        return draft_blocks(world, policy, LENGTHS, seed, greedy=greedy, pad=pad, only=only)

    shown = blocks()
    found = policy.verify(shown)
    _check_shapes(policy, shown, found, where)
    again = policy.verify(blocks())
    assert _same(found, again), f"{name} decides differently about the same blocks {where}"
    wider = policy.verify(blocks(pad=2))
    assert _same(found, wider), (
        f"{name} decides differently where a batch is padded to a longer block {where}"
    )
    if policy.defers_bonus and Need.TARGET_AFTER not in policy.needs:
        unread = blocks()
        ends = torch.arange(len(LENGTHS)), LENGTHS
        unread.raw_target_logits[ends] = unread.raw_target_logits[ends].roll(1, -1)
        # An empty block is decided on by what the target says there.
        assert _same(found, policy.verify(unread), LENGTHS > 0), (
            f"{name} looks at what the target says after a block from which it defers the bonus "
            f"token, and does not declare it; add Need.TARGET_AFTER to its `needs` {where}"
        )
    for row in range(len(LENGTHS)):
        alone = policy.verify(blocks(only=row))
        assert (int(alone.accepted[0]), int(alone.next_token[0])) == (
            int(found.accepted[row]),
            int(found.next_token[row]),
        ), f"{name} decides differently about a block without its batch-mates {where}"


def _check_shapes(policy: TokenPolicy, blocks: Blocks, found: Verification, where: str) -> None:
    name, rows = type(policy).__name__, len(blocks.lengths)
    for field in ("accepted", "next_token"):
        value: Tensor = getattr(found, field)
        assert value.shape == (rows,), (
            f"{name} returns {field} of shape {list(value.shape)} {where}"
        )
        assert not value.is_floating_point(), f"{name} returns {field} that is no integer {where}"
    within = (found.accepted >= 0) & (found.accepted <= blocks.lengths)
    assert bool(within.all()), (
        f"{name} accepts more tokens than were drafted, or fewer than none {where}"
    )
    following = found.next_token
    size = blocks.raw_target_logits.shape[-1]
    known = (following == DEFERRED) | ((following >= 0) & (following < size))
    assert bool(known.all()), f"{name} emits a token that is in no vocabulary {where}"
    deferred = following == DEFERRED
    assert not bool((deferred & (found.accepted == 0)).any()), (
        f"{name} neither accepts a token nor emits one {where}: such a round goes nowhere"
    )
    if bool(deferred.any()):
        assert policy.defers_bonus, f"{name} defers a token and does not say so (`defers_bonus`)"
        assert bool((found.accepted == blocks.lengths)[deferred].all()), (
            f"{name} defers a token inside a block {where}"
        )
    if found.reasons is not None:
        width = blocks.drafted.shape[1] + 1
        assert found.reasons.shape == (rows, width), (
            f"{name} returns reasons of shape {list(found.reasons.shape)}, not {[rows, width]}"
        )
        codes = found.reasons.long()
        assert bool(((codes >= 0) & (codes < len(policy.reasons))).all()), (
            f"{name} gives a reason that is not among its `reasons` {where}"
        )


def _same(one: Verification, other: Verification, rows: Tensor | None = None) -> bool:
    chosen = slice(None) if rows is None else rows
    return torch.equal(one.accepted[chosen], other.accepted[chosen]) and torch.equal(
        one.next_token[chosen], other.next_token[chosen]
    )
