"""What policies share that accept or reject drafted tokens at mismatches."""

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
from stet.core.policy import TokenPolicy
from stet.core.sampling import draw
from stet.core.tensors import prefix_length
from stet.core.verification import DEFERRED, Mismatches, ScoredMismatches, Verification
from stet.core.wide import logprobs_of
from stet.policies.exact import acceptance_mask, or_else

REASONS = ("accepted", "recovered", "bonus", ACCEPTED_MISMATCH)
"""The reasons that policies on mismatches give for tokens."""

_ACCEPTED_MISMATCH = REASONS.index(ACCEPTED_MISMATCH)


def find_mismatches(blocks: Blocks) -> Mismatches:
    """Where draft and target mismatch, and the target's tokens; needs `Need.DRAFT_PROBS`."""
    # Greedy blocks do not read them; checked all the same, or a policy that does not declare
    # them would fail only when it is batched with sampling requests.
    blocks.require(Need.DRAFT_PROBS, "where the models mismatch")
    if blocks.all_greedy:
        target = blocks.target_tokens
        return Mismatches(blocks.drafted == target[:, :-1], target)
    p = blocks.target_probs
    rows, positions, vocabulary = p.shape
    residual = or_else(blocks.subtract_draft(p).clamp_(min=0), p)
    uniforms = blocks.uniform(NEXT, positions)
    target = draw(residual.reshape(-1, vocabulary), uniforms.reshape(-1)).view(rows, positions)
    return Mismatches(acceptance_mask(blocks, p), target)


@dataclass(frozen=True, slots=True)
class MismatchLogprobs:
    """Raw log-probabilities of both models' tokens under each model, [B, K].

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
    """The log-probabilities of both tokens under both models; needs `Need.DRAFT_LOGPROBS`.

    On a CPU they are computed at mismatches alone, and are 0 at other positions.
    """
    width = blocks.drafted.shape[1]
    both = torch.stack([mismatches.target[:, :width], blocks.drafted], 2)
    if blocks.drafted.device.type == "cpu":
        p = torch.zeros(both.shape)
        q = torch.zeros(both.shape)
        for row, place in ((~mismatches.agree) & blocks.present).nonzero().tolist():
            tokens = both[row, place]
            p[row, place] = logprobs_of(blocks.raw_target_logits[row, place], tokens)
            q[row, place] = logprobs_of(blocks.draft_row(row, place), tokens)
    else:
        totals = blocks.target_total[:, :width, None]
        p = blocks.raw_target_logits[:, :width].gather(2, both) - totals
        q = blocks.draft_logprobs_of(both)
    return MismatchLogprobs(p[..., 0], p[..., 1], q[..., 1], q[..., 0])


def at_mismatches(
    blocks: Blocks,
    mismatches: Mismatches,
    accepted: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    draft: bool = False,
) -> Tensor:
    """Whether a rule on the models' raw distributions accepts drafted tokens, [B, K] bool.

    On an accelerator the rule is evaluated at every position, on a CPU only at mismatches: at other
    positions its result is not used.

    Args:
        blocks: the blocks.
        mismatches: where the models mismatch, and the target's tokens.
        accepted: the rule, a function of the target's logits [N, V], the draft's [N, V] and the
            drafted tokens [N, 1] of N positions to [N] bool. It must not overwrite its arguments.
        draft: whether it reads the draft's logits; otherwise it is passed the target's in their
            place.
    """
    target, width = blocks.raw_target_logits, blocks.drafted.shape[1]
    tokens = blocks.drafted[..., None]
    if target.device.type != "cpu":
        p = target[:, :width].flatten(0, 1)
        q = blocks.raw_draft_logits.flatten(0, 1) if draft else p
        return accepted(p, q, tokens.flatten(0, 1)).view_as(mismatches.agree)
    result = torch.zeros_like(mismatches.agree)
    # One by one: copying several rows takes longer than the computation on them.
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
    """Accept drafted tokens up to the first mismatch that is not accepted.

    The bonus token is deferred: the next block's first token is then decided as any other, and the
    text does not depend on where blocks end.

    Args:
        blocks: the blocks.
        mismatches: where the models mismatch, and the target's tokens.
        accept: [B, K] bool, where the drafted token is accepted if it is a mismatch.
        defers_bonus: False for rules that are published without deferring; the target's own token
            then follows a whole block as the bonus token.
        scored: the mismatches with their scores, for the record.
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
    """The reasons that `settle` gives, [B, K + 1], from numbers on the host."""
    reasons = [[0 if same else _ACCEPTED_MISMATCH for same in row] + [0] for row in agree]
    for row, count, length in zip(reasons, accepted, lengths, strict=True):
        row[count] = 2 if count == length else 1
    return torch.tensor(reasons)


def defer_bonus(blocks: Blocks, accepted: Tensor, following: Tensor) -> Tensor:
    """The next tokens [B], `DEFERRED` after a whole block; after an empty one they are kept."""
    return following.masked_fill((accepted == blocks.lengths) & (blocks.lengths > 0), DEFERRED)


class MismatchPolicy(TokenPolicy):
    """A token policy that decides at each mismatch whether the draft's token is accepted.

    A subclass defines one method, `accepts`. Tokens on which the models agree are accepted, and so
    are mismatches that the method accepts; the block ends at the first that it rejects. By default
    the bonus token is deferred, so that the rule is applied there too, and the rule depends on
    each position alone. A subclass for which this does not hold sets `defers_bonus` or
    `block_invariant` to False.
    """

    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS})
    reasons: ClassVar[tuple[str, ...]] = REASONS
    defers_bonus: ClassVar[bool] = True
    block_invariant: ClassVar[bool] = True

    @abstractmethod
    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """Where the draft's token is accepted if it is a mismatch, [B, K] bool; K is at least 1."""

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        mismatches = find_mismatches(blocks)
        accept = self.accepts(blocks, mismatches) if blocks.drafted.shape[1] else mismatches.agree
        return settle(blocks, mismatches, accept, defers_bonus=self.defers_bonus)
