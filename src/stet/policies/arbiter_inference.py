"""Arbiter inference: running an arbiter on the mismatches of a batch of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stet.arbiter import Arbiter, Position
from stet.core.blocks import Blocks
from stet.core.verification import Mismatches, ScoredMismatches, Verification
from stet.policies.mismatches import find_mismatches, settle


class Rule(Protocol):
    """Turns probabilities into decisions: whether the draft's tokens are accepted."""

    def accepts(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """The decisions for N positions, [N] bool.

        Args:
            score: [N], the arbiter's probabilities.
            rows: [N], the block of each position.
            places: [N], the position in the block.
        """
        ...


@dataclass(frozen=True, slots=True)
class Above:
    """Accept the draft's token where its probability is above a threshold.

    The comparison is strict, so that 1 means never; 0 means always, even for a score that rounds
    to 0.
    """

    threshold: float

    def accepts(self, score: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """The decisions for N positions, [N] bool; see `Rule`."""
        del rows, places
        return score > self._bar

    def accepts_one(self, score: float) -> bool:
        """The decision for one position, by its recorded probability."""
        return score > self._bar

    @property
    def _bar(self) -> float:
        return self.threshold or -1.0


def arbitrate(
    blocks: Blocks,
    arbiter: Arbiter,
    rule: Rule,
    *,
    defers_bonus: bool = True,
    keep: bool = False,
    everywhere: bool | None = None,
) -> Verification:
    """Verify a batch of blocks: the arbiter accepts or rejects the draft's token at each mismatch.

    Args:
        blocks: the blocks.
        arbiter: gives the probabilities.
        rule: turns a probability into a decision.
        defers_bonus: defer the bonus token, see `settle`.
        keep: also keep the features that were computed, for the record.
        everywhere: run it on every position at once rather than only on mismatches that are
            reached. The decisions are the same. None: on an accelerator, where the host would have
            to wait for the device to select some.
    """
    mismatches = find_mismatches(blocks)
    where = (~mismatches.agree) & blocks.present
    if everywhere is None:
        everywhere = where.device.type != "cpu"
    if not blocks.drafted.shape[1] or not (everywhere or where.any()):
        return settle(blocks, mismatches, None, defers_bonus=defers_bonus)
    inference = _Inference(blocks, mismatches, where, arbiter, rule, keep)
    if everywhere:
        inference.run_everywhere()
    else:
        inference.run_where_reached()
    return settle(
        blocks,
        mismatches,
        inference.accepted,
        defers_bonus=defers_bonus,
        scored=inference.scored,
    )


class _Inference:
    """The arbiter's decisions about a batch of blocks, filled in position by position.

    Attributes:
        accepted: [B, K] bool, where it was decided that the draft's token is accepted.
        scored: the mismatches, with the probabilities that were computed.
    """

    def __init__(
        self,
        blocks: Blocks,
        mismatches: Mismatches,
        where: Tensor,
        arbiter: Arbiter,
        rule: Rule,
        keep: bool,
    ) -> None:
        self._blocks, self._mismatches, self._arbiter = blocks, mismatches, arbiter
        self._rule = rule
        self.accepted = torch.zeros_like(where)
        score = torch.zeros(where.shape, device=where.device)
        inputs = arbiter.network.inputs
        features = torch.zeros(*where.shape, inputs, device=where.device) if keep else None
        self.scored = ScoredMismatches(where, mismatches.target[:, :-1], score, features)

    def run_everywhere(self) -> None:
        """Decide at every position."""
        count, width = self.accepted.shape
        device = self.accepted.device
        rows = torch.arange(count, device=device).repeat_interleave(width)
        self._decide(rows, torch.arange(width, device=device).repeat(count))

    def run_where_reached(self) -> None:
        """Decide at the first mismatch of every block, then at the next of those accepted there.

        Positions after a rejected token are never computed.
        """
        waiting = [
            (row, ahead)
            for row, differs in enumerate(self.scored.where.tolist())
            if (ahead := [place for place, differ in enumerate(differs) if differ])
        ]
        while waiting:
            rows, places = torch.tensor([(row, ahead.pop(0)) for row, ahead in waiting]).unbind(1)
            accepted = self._decide(rows, places).tolist()
            waiting = [
                (row, ahead)
                for (row, ahead), goes_on in zip(waiting, accepted, strict=True)
                if goes_on and ahead
            ]

    def _decide(self, rows: Tensor, places: Tensor) -> Tensor:
        """Decide at N positions, given by the block and the place in it; the decisions, [N]."""
        draft, target = self._blocks.drafted[rows, places], self.scored.target[rows, places]
        at = Position(self._blocks, self._mismatches, rows, places, draft, target)
        features = self._arbiter.describe(at)
        score = self._arbiter.logits_of(features).sigmoid()
        accepted = self._rule.accepts(score, rows, places)
        self.scored.score[rows, places] = score
        self.accepted[rows, places] = accepted
        if self.scored.features is not None:
            self.scored.features[rows, places] = features
        return accepted
