"""Typical faults of rules, to show that a check finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.tensors import at
from stet.core.verification import Verification

Fault = Callable[[Blocks, Verification], Verification]


def _accept_everything(blocks: Blocks, found: Verification) -> Verification:
    """Accept every drafted token, whatever the target's distribution."""
    return replace(found, accepted=blocks.lengths, next_token=_best(blocks, blocks.lengths))


def _accept_one_more(blocks: Blocks, found: Verification) -> Verification:
    """Accept the first rejected token, too."""
    accepted = torch.minimum(found.accepted + 1, blocks.lengths)
    same = accepted == found.accepted
    following = torch.where(same, found.next_token, _best(blocks, accepted))
    return replace(found, accepted=accepted, next_token=following)


def _take_the_best_next(blocks: Blocks, found: Verification) -> Verification:
    """Take the target's most probable token as the next one, also where it should be drawn."""
    return replace(found, next_token=_best(blocks, found.accepted))


def _repeat_the_rejected(blocks: Blocks, found: Verification) -> Verification:
    """Emit the rejected token all the same, as the token that follows the accepted ones."""
    if not blocks.drafted.shape[1]:
        return found
    place = found.accepted.clamp(max=blocks.drafted.shape[1] - 1)
    rejected = found.accepted < blocks.lengths
    own = at(blocks.drafted, place)
    return replace(found, next_token=torch.where(rejected, own, found.next_token))


def _look_one_too_early(blocks: Blocks, found: Verification) -> Verification:
    """Take the next token from the position before its own."""
    return replace(found, next_token=_best(blocks, (found.accepted - 1).clamp(min=0)))


def _best(blocks: Blocks, place: Tensor) -> Tensor:
    return at(blocks.target_tokens, place)


MUTANTS: dict[str, Fault] = {
    "accepts everything": _accept_everything,
    "accepts one more": _accept_one_more,
    "takes the best next token": _take_the_best_next,
    "repeats the rejected token": _repeat_the_rejected,
    "looks one position too early": _look_one_too_early,
}
"""The faults, by what they do wrong."""


@dataclass(frozen=True)
class Mutant(TokenPolicy):
    """A rule with a fault.

    Attributes:
        policy: the rule.
        fault: one of `MUTANTS`.
    """

    policy: TokenPolicy
    fault: str

    name: ClassVar[str] = "mutant"
    lossless: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Need]:
        """The needs of the rule."""
        return self.policy.needs

    @property
    def defers_bonus(self) -> bool:
        """Whether the rule defers the bonus token."""
        return self.policy.defers_bonus

    def verify(self, blocks: Blocks) -> Verification:
        """Verify the blocks with the rule, and put the fault in."""
        found = replace(self.policy.verify(blocks), reasons=None, mismatches=None)
        return MUTANTS[self.fault](blocks, found)


def mutant(policy: TokenPolicy, fault: str) -> TokenPolicy:
    """Make a policy with a fault, which the checks of a lossless rule must find.

    Args:
        policy: the rule.
        fault: one of `MUTANTS`.
    """
    return Mutant(policy, fault)
