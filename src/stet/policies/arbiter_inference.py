"""Arbiter inference: running an arbiter on the mismatches of a batch of blocks."""

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
"""Up to so many mismatches are decided one by one rather than as a batch."""


class Rule(Protocol):
    """Turns probabilities into decisions: whether the draft's tokens are accepted."""

    def many(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """The decisions for N positions, [N] bool.

        Args:
            score: [N], the arbiter's probabilities.
            rows: [N], the block of each position.
            places: [N], the position in the block.
        """
        ...

    def one(self, score: float, row: int, place: int) -> bool:
        """The decision for one position, on the host; arguments as in `many`."""
        ...


@dataclass(frozen=True, slots=True)
class Above:
    """Accept the draft's token where its probability is above a threshold.

    The comparison is strict, so that 1 means never; 0 means always, even for a score that rounds
    to 0.
    """

    threshold: float

    def many(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """The decisions for N positions, [N] bool; see `Rule`."""
        del rows, places
        if self.threshold == 0:
            return torch.ones_like(score, dtype=torch.bool)
        return score > self.threshold

    def one(self, score: float, row: int = 0, place: int = 0) -> bool:
        """The decision for one position, on the host; see `Rule`."""
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
    """Verify a batch of blocks: the arbiter accepts or rejects the draft's token at each mismatch.

    On an accelerator it is run on every position at once: to select some, the host would have to
    wait for the device. On a CPU it is run only on mismatches that are reached: the first of every
    block, then the next of those blocks whose token was accepted; positions after a rejected token
    are never computed. The decisions are the same.

    Args:
        blocks: the blocks.
        arbiter: gives the probabilities.
        rule: turns a probability into a decision.
        defers_bonus: defer the bonus token, see `settle`.
        keep: also keep the features that were computed, for the record.
    """
    mismatches = find_mismatches(blocks)
    if not blocks.drafted.shape[1]:
        return settle(blocks, mismatches, mismatches.agree, defers_bonus=defers_bonus)
    if kind_of(blocks.drafted) == "cpu":
        return _HostInference(blocks, mismatches, arbiter, rule, defers_bonus, keep).verify()
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


class _HostInference:
    """Arbiter inference on a CPU, with few tensor operations (see `stet.arbiter.Spot` for why)."""

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

    def verify(self) -> Verification:
        """Verify the batch of blocks."""
        accepted = list(self._lengths)
        agree: list[list[bool]] = self._mismatches.agree.tolist()
        waiting = {
            row: places
            for row, length in enumerate(self._lengths)
            if (places := [place for place in range(length) if not agree[row][place]])
        }
        scored = None
        if waiting:
            self._decide(waiting, accepted)
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

    def _decide(self, waiting: dict[int, list[int]], accepted: list[int]) -> None:
        """Decide the mismatches of each row in turn, up to the first that is rejected.

        Args:
            waiting: the mismatches of each row, consumed.
            accepted: for each row how many tokens are accepted; lowered where one is rejected.
        """
        while waiting:
            asked = [(row, places.pop(0)) for row, places in waiting.items()]
            few = self._features is None and self._arbiter.in_numbers and len(asked) <= FEW
            decided = [self._decide_one(*at) for at in asked] if few else self._decide_many(asked)
            for (row, place), (probability, wins) in zip(asked, decided, strict=True):
                self._scores[row][place] = probability
                if not wins:
                    accepted[row] = place
                if not (wins and waiting[row]):
                    del waiting[row]

    def _decide_one(self, row: int, place: int) -> tuple[float, bool]:
        """Compute the arbiter's probability at one position, and the decision."""
        tokens = self._drafted[row][place], self._target[row][place]
        probability = self._arbiter.probability(Spot(self._blocks, row, place, *tokens))
        return probability, self._rule.one(probability, row, place)

    def _decide_many(self, asked: list[tuple[int, int]]) -> list[tuple[float, bool]]:
        """Compute the arbiter's probability and the decision at each of several positions."""
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
    """The type of the device that a tensor is on, such as "cpu" or "cuda"."""
    return tensor.device.type
