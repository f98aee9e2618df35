"""What rules share that decide, where draft and target disagree, whose token stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stet.policies.base import HOLD, NEXT, Blocks, Disputes, Need, Verdict, prefix_length
from stet.policies.exact import accepted, or_else
from stet.ruling import OVERRULED
from stet.sampling import draw

REASONS = ("accepted", "corrected", "bonus", OVERRULED)
"""Of an arbitrating policy: `overruled` is a drafted token that stands against the target's."""

_OVERRULED = REASONS.index(OVERRULED)


@dataclass(frozen=True, slots=True)
class Choices:
    """What each model wants at each position of a batch of blocks.

    At temperature 0 the models agree where the drafted token is the target's first choice. When
    sampling they agree where the exact rule would accept the drafted token, and the target's own
    token is what that rule would draw instead.

    Attributes:
        agree: [B, K] bool.
        target: [B, K + 1] int64, the token the target would put at each position.
    """

    agree: Tensor
    target: Tensor


def choices(blocks: Blocks) -> Choices:
    """Where the models disagree, and over what; needs `Need.DRAFT_PROBS`."""
    # Greedy blocks do not read them; said all the same, or it would come out in company alone.
    blocks.require(Need.DRAFT_PROBS, "where the models disagree")
    if blocks.all_greedy:
        target = blocks.target_tokens
        return Choices(blocks.drafted == target[:, :-1], target)
    p = blocks.target_probs
    rows, positions, vocabulary = p.shape
    share = torch.zeros_like(p)
    share[:, :-1] = blocks.draft_probs * blocks.present[..., None]
    residual = or_else((p - share).clamp(min=0), p)
    uniforms = blocks.uniform(NEXT, positions)
    target = draw(residual.reshape(-1, vocabulary), uniforms.reshape(-1)).view(rows, positions)
    return Choices(accepted(blocks, p), target)


@dataclass(frozen=True, slots=True)
class Disputed:
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


def disputed(blocks: Blocks, found: Choices) -> Disputed:
    """What both models think of both tokens; needs `Need.DRAFT_LOGPROBS`."""
    width = blocks.drafted.shape[1]
    p, q = blocks.target_logprobs[:, :width], blocks.draft_logprobs
    own, theirs = found.target[:, :width, None], blocks.drafted[..., None]
    return Disputed(
        p.gather(2, own)[..., 0],
        p.gather(2, theirs)[..., 0],
        q.gather(2, theirs)[..., 0],
        q.gather(2, own)[..., 0],
    )


def settle(
    blocks: Blocks,
    found: Choices,
    overrule: Tensor,
    *,
    hold: bool = True,
    disputes: Disputes | None = None,
) -> Verdict:
    """Keep drafted tokens while the models agree or the target is overruled.

    The token after a whole block is held back: the next block's first token is then arbitrated
    against it, and the text does not depend on where blocks end.

    Args:
        blocks: the blocks.
        found: what each model wants.
        overrule: [B, K] bool, where the drafted token stands if they disagree.
        hold: False for rules published without holding back: the target's own token then follows a
            whole block.
        disputes: what was weighed, for the record.
    """
    kept = prefix_length((found.agree | overrule) & blocks.present)
    own = found.target.gather(1, kept[:, None]).squeeze(1)
    whole = kept == blocks.lengths
    reasons = torch.zeros_like(found.target)
    reasons[:, :-1] = torch.where(found.agree, 0, _OVERRULED)
    reasons.scatter_(1, kept[:, None], torch.where(whole, 2, 1)[:, None])
    following = hold_after_whole(blocks, kept, own) if hold else own
    return Verdict(kept, following, reasons, disputes)


def reasons_of(agree: list[list[bool]], kept: list[int], lengths: list[int]) -> Tensor:
    """The same reasons, of numbers on the host: [B, K + 1]."""
    found = [[0 if same else _OVERRULED for same in row] + [0] for row in agree]
    for row, count, length in zip(found, kept, lengths, strict=True):
        row[count] = 2 if count == length else 1
    return torch.tensor(found)


def hold_after_whole(blocks: Blocks, kept: Tensor, following: Tensor) -> Tensor:
    """The next tokens [B], held back after a whole block; an empty one has nothing to wait for."""
    return following.masked_fill((kept == blocks.lengths) & (blocks.lengths > 0), HOLD)
