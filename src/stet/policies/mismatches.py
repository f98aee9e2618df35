"""What rules share that decide, where draft and target disagree, whose token stands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stet.core.acceptance import ACCEPTED_MISMATCH
from stet.core.blocks import NEXT, Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy, prefix_length
from stet.core.sampling import draw
from stet.core.verification import DEFERRED, Mismatches, ScoredMismatches, Verification
from stet.policies.exact import acceptance_mask, or_else

REASONS = ("accepted", "recovered", "bonus", ACCEPTED_MISMATCH)
"""Of such a rule: an accepted mismatch is a drafted token that stands against the target's."""

_ACCEPTED_MISMATCH = REASONS.index(ACCEPTED_MISMATCH)


def find_mismatches(blocks: Blocks) -> Mismatches:
    """Where the models disagree, and over what; needs `Need.DRAFT_PROBS`."""
    # Greedy blocks do not read them; said all the same, or it would come out in company alone.
    blocks.require(Need.DRAFT_PROBS, "where the models disagree")
    if blocks.all_greedy:
        target = blocks.target_tokens
        return Mismatches(blocks.drafted == target[:, :-1], target)
    p = blocks.target_probs
    rows, positions, vocabulary = p.shape
    residual = or_else(blocks.less_draft(p).clamp_(min=0), p)
    uniforms = blocks.uniform(NEXT, positions)
    target = draw(residual.reshape(-1, vocabulary), uniforms.reshape(-1)).view(rows, positions)
    return Mismatches(acceptance_mask(blocks, p), target)


@dataclass(frozen=True, slots=True)
class MismatchLogprobs:
    """Raw log-probabilities of the two tokens at each position, under each model: [B, K].

    Attributes:
        target_target: of the target's token under the target.
        target_draft: of the draft's token under the target.
        draft_draft: of the draft's token under the draft.
        draft_target: of the target's token under the draft.
    """

    target_target: Tensor
    target_draft: Tensor
    draft_draft: Tensor
    draft_target: Tensor


def mismatch_logprobs(blocks: Blocks, mismatches: Mismatches) -> MismatchLogprobs:
    """What both models think of both tokens; needs `Need.DRAFT_LOGPROBS`."""
    width = blocks.drafted.shape[1]
    both = torch.stack([mismatches.target[:, :width], blocks.drafted], 2)
    p = blocks.raw_target_logits[:, :width].gather(2, both) - blocks.target_total[:, :width, None]
    q = blocks.draft_logprobs_of(both)
    return MismatchLogprobs(p[..., 0], p[..., 1], q[..., 1], q[..., 0])


def at_mismatches(
    blocks: Blocks,
    mismatches: Mismatches,
    accepted: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    draft: bool = False,
) -> Tensor:
    """[B, K] bool: whether drafted tokens stand by a rule on the models' raw distributions.

    On an accelerator the rule is asked about every position; on a CPU only about those at which the
    models disagree, as elsewhere nobody looks at what it says.

    Args:
        blocks: the blocks.
        mismatches: what each model wants.
        accepted: the rule: of N positions the target's logits [N, V], the draft's [N, V] and the
            drafted tokens [N, 1], to [N] bool. It overwrites nothing.
        draft: whether it reads the draft's logits; otherwise it is given the target's in their
            place.
    """
    target, width = blocks.raw_target_logits, blocks.drafted.shape[1]
    tokens = blocks.drafted[..., None]
    if target.device.type != "cpu":
        p = target[:, :width].flatten(0, 1)
        q = blocks.raw_draft_logits.flatten(0, 1) if draft else p
        return accepted(p, q, tokens.flatten(0, 1)).view_as(mismatches.agree)
    result = torch.zeros_like(mismatches.agree)
    # One by one: a copy of several rows takes longer than what is done with them.
    for row, place in ((~mismatches.agree) & blocks.present).nonzero().tolist():
        p = target[row, place][None]
        q = blocks.draft_row(row, place)[None] if draft else p
        result[row, place] = accepted(p, q, tokens[row, place][None])[0]
    return result


def settle(
    blocks: Blocks,
    mismatches: Mismatches,
    accept: Tensor,
    *,
    defers_bonus: bool = True,
    scored: ScoredMismatches | None = None,
) -> Verification:
    """Keep drafted tokens while the models agree or the target is overruled.

    The token after a whole block is held back: the next block's first token is then arbitrated
    against it, and the text does not depend on where blocks end.

    Args:
        blocks: the blocks.
        mismatches: what each model wants.
        accept: [B, K] bool, where the drafted token is accepted if they disagree.
        defers_bonus: False for rules published without deferring: the target's own token then
            follows a whole block.
        scored: what was weighed, for the record.
    """
    accepted = prefix_length((mismatches.agree | accept) & blocks.present)
    own = mismatches.target.gather(1, accepted[:, None]).squeeze(1)
    whole = accepted == blocks.lengths
    reasons = torch.zeros_like(mismatches.target)
    reasons[:, :-1] = torch.where(mismatches.agree, 0, _ACCEPTED_MISMATCH)
    reasons.scatter_(1, accepted[:, None], torch.where(whole, 2, 1)[:, None])
    following = defer_bonus(blocks, accepted, own) if defers_bonus else own
    return Verification(accepted, following, reasons, scored)


def reasons_of(agree: list[list[bool]], accepted: list[int], lengths: list[int]) -> Tensor:
    """The same reasons, of numbers on the host: [B, K + 1]."""
    reasons = [[0 if same else _ACCEPTED_MISMATCH for same in row] + [0] for row in agree]
    for row, count, length in zip(reasons, accepted, lengths, strict=True):
        row[count] = 2 if count == length else 1
    return torch.tensor(reasons)


def defer_bonus(blocks: Blocks, accepted: Tensor, following: Tensor) -> Tensor:
    """The next tokens [B], held back after a whole block; an empty one has nothing to wait for."""
    return following.masked_fill((accepted == blocks.lengths) & (blocks.lengths > 0), DEFERRED)


class MismatchPolicy(TokenPolicy):
    """A rule that decides, where draft and target disagree, whose token stands.

    A rule of this kind is one method, `accepts`: tokens on which the models agree stand, those that
    it accepts stand against the target's, and the block ends at the first that it does not. By
    default the token after a whole block is deferred, so that it is ruled on too, and the rule goes
    by what is known at each position alone; one that does not says so (`defers_bonus`,
    `block_invariant`).
    """

    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS})
    reasons: ClassVar[tuple[str, ...]] = REASONS
    defers_bonus: ClassVar[bool] = True
    block_invariant: ClassVar[bool] = True

    @abstractmethod
    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """[B, K] bool: where the draft's token stands if the models disagree; K is at least 1."""

    def verify(self, blocks: Blocks) -> Verification:
        """Rule on a batch of blocks."""
        mismatches = find_mismatches(blocks)
        accept = self.accepts(blocks, mismatches) if blocks.drafted.shape[1] else mismatches.agree
        return settle(blocks, mismatches, accept, defers_bonus=self.defers_bonus)
