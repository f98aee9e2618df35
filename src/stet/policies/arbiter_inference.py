"""Asking an arbiter about the disagreements of a batch of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stet.arbiter import Arbiter, Position, Spot
from stet.core.blocks import Blocks
from stet.core.verification import DEFERRED, Mismatches, ScoredMismatches, Verification
from stet.policies.mismatches import find_mismatches, reasons_of, settle

FEW = 3
"""Disagreements that are decided one by one rather than together."""


class Rule(Protocol):
    """Makes decisions of probabilities: whether the draft's tokens stand."""

    def many(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """[N] bool, by probabilities [N] at rows [N] and places [N] of a batch of blocks."""
        ...

    def one(self, score: float, row: int, place: int) -> bool:
        """The same of a single one on the host."""
        ...


@dataclass(frozen=True, slots=True)
class Above:
    """The draft's token stands where its probability is above a threshold.

    Strictly above, so that 1 means never; 0 means always, whatever rounding makes of a score.
    """

    threshold: float

    def many(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """See `Rule`."""
        del rows, places
        if self.threshold == 0:
            return torch.ones_like(score, dtype=torch.bool)
        return score > self.threshold

    def one(self, score: float, row: int = 0, place: int = 0) -> bool:
        """See `Rule`."""
        del row, place
        return self.threshold == 0 or score > self.threshold


def arbitrate(
    blocks: Blocks,
    arbiter: Arbiter,
    rule: Rule,
    *,
    defers_bonus: bool = True,
    keep: bool = False,
) -> Verification:
    """Have the arbiter decide whose token stands, wherever the models disagree.

    On an accelerator it looks at every position at once: to pick some out, the host would have to
    wait for the device. On a CPU it looks only at disagreements that are reached, the first of
    every block, then the next of those blocks whose token stands; what lies behind a token that
    falls is never looked at. Both decide the same.

    Args:
        blocks: the blocks.
        arbiter: decides.
        rule: makes a decision of a probability.
        defers_bonus: hold the token after a whole block back, see `settle`.
        keep: also keep what it reckoned from, for the record.
    """
    mismatches = find_mismatches(blocks)
    if not blocks.drafted.shape[1]:
        return settle(blocks, mismatches, mismatches.agree, defers_bonus=defers_bonus)
    if kind_of(blocks.drafted) == "cpu":
        return _Walk(blocks, mismatches, arbiter, rule, defers_bonus, keep).verification()
    shape, device = mismatches.agree.shape, mismatches.agree.device
    rows = torch.arange(shape[0], device=device).repeat_interleave(shape[1])
    places = (torch.ones_like(mismatches.agree).cumsum(1) - 1).flatten()
    target = mismatches.target[:, :-1]
    at = Position(blocks, mismatches, rows, places, blocks.drafted.flatten(), target.flatten())
    features = arbiter.describe(at)
    score = arbiter.logits_of(features).sigmoid()
    scored = ScoredMismatches(
        (~mismatches.agree) & blocks.present,
        target,
        score.view(shape),
        features.view(*shape, -1) if keep else None,
    )
    accepted = rule.many(score, rows, places).view(shape)
    return settle(blocks, mismatches, accepted, defers_bonus=defers_bonus, scored=scored)


class _Walk:
    """A ruling on a CPU, of numbers on the host.

    With few tensor operations: see `stet.arbiter.Spot`.
    """

    def __init__(
        self,
        blocks: Blocks,
        mismatches: Mismatches,
        arbiter: Arbiter,
        rule: Rule,
        defers_bonus: bool,
        keep: bool,
    ) -> None:
        self._blocks, self._mismatches, self._arbiter = blocks, mismatches, arbiter
        self._rule, self._defers_bonus = rule, defers_bonus
        self._drafted: list[list[int]] = blocks.drafted.tolist()
        self._target: list[list[int]] = mismatches.target.tolist()
        self._lengths: list[int] = blocks.lengths.tolist()
        count, width = mismatches.agree.shape
        self._scores = [[0.0] * width for _ in range(count)]
        self._features = torch.zeros(count, width, arbiter.network.inputs) if keep else None

    def verification(self) -> Verification:
        """The ruling."""
        accepted = list(self._lengths)
        agree: list[list[bool]] = self._mismatches.agree.tolist()
        waiting = {
            row: places
            for row, length in enumerate(self._lengths)
            if (places := [place for place in range(length) if not agree[row][place]])
        }
        scored = None
        if waiting:
            self._ask(waiting, accepted)
            scored = ScoredMismatches(
                ~self._mismatches.agree
                if self._blocks.full
                else (~self._mismatches.agree) & self._blocks.present,
                self._mismatches.target[:, :-1],
                torch.tensor(self._scores),
                self._features,
            )
        own = [
            DEFERRED if self._defers_bonus and 0 < length == n else tokens[n]
            for tokens, n, length in zip(self._target, accepted, self._lengths, strict=True)
        ]
        reasons = reasons_of(agree, accepted, self._lengths) if scored is not None else None
        return Verification(torch.tensor(accepted), torch.tensor(own), reasons, scored)

    def _ask(self, waiting: dict[int, list[int]], accepted: list[int]) -> None:
        """Decide, and write where blocks end into `accepted`."""
        while waiting:
            asked = [(row, places.pop(0)) for row, places in waiting.items()]
            few = self._features is None and self._arbiter.in_numbers and len(asked) <= FEW
            decided = [self._alone(*at) for at in asked] if few else self._together(asked)
            for (row, place), (probability, wins) in zip(asked, decided, strict=True):
                self._scores[row][place] = probability
                if not wins:
                    accepted[row] = place
                if not (wins and waiting[row]):
                    del waiting[row]

    def _alone(self, row: int, place: int) -> tuple[float, bool]:
        """The arbiter's probability at one position, and the decision."""
        tokens = self._drafted[row][place], self._target[row][place]
        probability = self._arbiter.probability(Spot(self._blocks, row, place, *tokens))
        return probability, self._rule.one(probability, row, place)

    def _together(self, asked: list[tuple[int, int]]) -> list[tuple[float, bool]]:
        """The same at many positions."""
        rows, places, draft, target = torch.tensor(
            [(r, p, self._drafted[r][p], self._target[r][p]) for r, p in asked]
        ).unbind(1)
        at = Position(self._blocks, self._mismatches, rows, places, draft, target)
        features = self._arbiter.describe(at)
        if self._features is not None:
            self._features[rows, places] = features
        score = self._arbiter.logits_of(features).sigmoid()
        won = self._rule.many(score, rows, places)
        return list(zip(score.tolist(), won.tolist(), strict=True))


def kind_of(tensor: Tensor) -> str:
    """The kind of device that a tensor is on."""
    return tensor.device.type
