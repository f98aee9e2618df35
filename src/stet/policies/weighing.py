"""Asking an arbiter about the disagreements of a batch of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.arbiter import Arbiter, Position
from stet.policies.arbitration import Choices
from stet.policies.base import Blocks, Disputes


@dataclass(frozen=True, slots=True)
class Weighed:
    """What an arbiter made of a batch of blocks.

    Attributes:
        score: [B, K] float32, its probability for the draft's token, 0 where it was not asked.
        overrule: [B, K] bool, where the draft's token stands if the models disagree.
        features: [B, K, F] float32 that it reckoned from, if they were to be kept.
    """

    score: Tensor
    overrule: Tensor
    features: Tensor | None

    def disputes(self, blocks: Blocks, found: Choices) -> Disputes:
        """What was weighed, for the record."""
        width = blocks.drafted.shape[1]
        where = (~found.agree) & blocks.present
        return Disputes(where, found.target[:, :width], self.score, self.features)


def weigh(
    blocks: Blocks,
    found: Choices,
    arbiter: Arbiter,
    stands: Callable[[Tensor], Tensor],
    *,
    keep: bool = False,
) -> Weighed:
    """Have the arbiter decide whose token stands.

    On an accelerator it looks at every position at once: to pick some out, the host would have to
    wait for the device. On a CPU it looks only at disagreements that are reached, the first of
    every block, then the next of those blocks whose token stands; what lies behind a token that
    falls is never looked at. Both decide the same.

    Args:
        blocks: the blocks.
        found: what each model wants.
        arbiter: decides.
        stands: where the draft's token stands, by [B, K] probabilities, each for itself.
        keep: also keep what it reckoned from.
    """
    shape = found.agree.shape
    score = torch.zeros(shape, device=found.agree.device)
    kept = torch.zeros((*shape, arbiter.network.inputs), device=score.device) if keep else None

    def ask(rows: Tensor, places: Tensor) -> None:
        features = arbiter.describe(Position(blocks, found, rows, places))
        score[rows, places] = arbiter.odds(features).sigmoid()
        if kept is not None:
            kept[rows, places] = features

    if kind_of(blocks.drafted) != "cpu":
        grid = torch.ones_like(found.agree).cumsum(1) - 1
        rows = torch.arange(shape[0], device=grid.device).repeat_interleave(shape[1])
        ask(rows, grid.flatten())
        return Weighed(score, stands(score), kept)
    overrule = torch.zeros(shape, dtype=torch.bool)
    waiting = (~found.agree) & blocks.present
    while len(rows := waiting.any(1).nonzero()[:, 0]):
        places = waiting[rows].int().argmax(1)
        ask(rows, places)
        won = stands(score)[rows, places]
        overrule[rows, places] = won
        waiting[rows, places] = False
        waiting[rows[~won]] = False
    return Weighed(score, overrule, kept)


def kind_of(tensor: Tensor) -> str:
    """The kind of device that a tensor is on."""
    return tensor.device.type
