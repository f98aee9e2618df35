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


Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Whether draft's tokens stand, [N] bool, by their probabilities [N], rows [N] and places [N]."""


def weigh(
    blocks: Blocks, found: Choices, arbiter: Arbiter, stands: Rule, *, keep: bool = False
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
        stands: makes a decision of a probability.
        keep: also keep what it reckoned from.
    """
    shape, device = found.agree.shape, found.agree.device
    score = torch.zeros(shape, device=device)
    overrule = torch.zeros(shape, dtype=torch.bool, device=device)
    kept = torch.zeros((*shape, arbiter.network.inputs), device=device) if keep else None

    def decide(rows: Tensor, places: Tensor) -> Tensor:
        features = arbiter.describe(Position(blocks, found, rows, places))
        chance = arbiter.odds(features).sigmoid()
        won = stands(chance, rows, places)
        score[rows, places], overrule[rows, places] = chance, won
        if kept is not None:
            kept[rows, places] = features
        return won

    if kind_of(blocks.drafted) != "cpu":
        grid = torch.ones_like(found.agree).cumsum(1) - 1
        decide(torch.arange(shape[0], device=device).repeat_interleave(shape[1]), grid.flatten())
        return Weighed(score, overrule, kept)
    waiting: dict[int, list[int]] = {}
    for row, place in ((~found.agree) & blocks.present).nonzero().tolist():
        waiting.setdefault(row, []).append(place)
    while waiting:
        rows = list(waiting)
        places = [waiting[row].pop(0) for row in rows]
        won = decide(torch.tensor(rows), torch.tensor(places)).tolist()
        waiting = {
            row: waiting[row]
            for row, goes_on in zip(rows, won, strict=True)
            if goes_on and waiting[row]
        }
    return Weighed(score, overrule, kept)


def kind_of(tensor: Tensor) -> str:
    """The kind of device that a tensor is on."""
    return tensor.device.type
