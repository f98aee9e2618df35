"""Positions that an arbiter is run on: several at once as tensors, or a single one in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isnan, log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stet.core.blocks import Blocks
    from stet.core.verification import Mismatches


@dataclass(eq=False)
class Position:
    """N positions of a batch of blocks, with the draft's token d and the target's token t.

    Attributes:
        blocks: the batch.
        mismatches: where the models mismatch, and the target's tokens.
        rows: [N] int64, the block of each position.
        places: [N] int64, the position in the block.
        draft: [N] int64, the draft's token d.
        target: [N] int64, the target's token t.
    """

    blocks: Blocks
    mismatches: Mismatches
    rows: Tensor
    places: Tensor
    draft: Tensor
    target: Tensor

    @cached_property
    def both(self) -> ModelReading:
        """The target's distributions at the positions, then the draft's if it is read.

        Both are read together: at these sizes the number of operations determines the cost.
        """
        blocks, target = self.blocks, self.blocks.raw_target_logits
        shape = (1 + blocks.reads_draft_logits, len(self.rows), target.shape[2])
        out = torch.empty(shape, device=self.rows.device)
        torch.index_select(target.flatten(0, 1), 0, self._flat(target), out=out[0])
        if blocks.reads_draft_logits:
            self._copy_draft_logits(out[1])
        return ModelReading(out)

    def _copy_draft_logits(self, out: Tensor) -> None:
        """Copy the draft's logits at the positions to `out`, [N, V]."""
        if out.device.type == "cpu":
            # One by one: taken together, those of the whole block would be joined first.
            for number, at in enumerate(zip(self.rows.tolist(), self.places.tolist(), strict=True)):
                out[number] = self.blocks.draft_row(*at)
        else:
            logits = self.blocks.raw_draft_logits
            torch.index_select(logits.flatten(0, 1), 0, self._flat(logits), out=out)

    @cached_property
    def models(self) -> list[ModelNumbers]:
        """What each model says of the two tokens: the target, then the draft if it was kept."""
        tokens = torch.stack([self.target, self.draft], 1)
        logprobs, entropies = self.both.of(tokens).unbind(), self.both.entropy().unbind()
        return [
            ModelNumbers(of_target=own[:, 0], of_draft=own[:, 1], entropy=entropy)
            for own, entropy in zip(logprobs, entropies, strict=True)
        ]

    @cached_property
    def after(self) -> ModelReading:
        """The target's distributions at the next position if d is accepted, as [1, N, V]."""
        logits = self.blocks.raw_target_logits
        return ModelReading(logits.flatten(0, 1).index_select(0, self._flat(logits) + 1)[None])

    def _flat(self, values: Tensor) -> Tensor:
        """Indices [N] into [B, K, V] with its first two dimensions flattened."""
        return self.rows * values.shape[1] + self.places


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """One model's numbers at N positions.

    Attributes:
        of_target: [N] log-probability of the target's token t, at least -30 nats.
        of_draft: [N] log-probability of the draft's token d, at least -30 nats.
        entropy: [N] entropy of the distribution, in nats.
    """

    of_target: Tensor
    of_draft: Tensor
    entropy: Tensor


class ModelReading:
    """Raw distributions of M models at N positions over V tokens, read in few passes over V.

    Args:
        logits: [M, N, V] float32; overwritten.

    Attributes:
        logits: [M, N, V], without infinities.
    """

    def __init__(self, logits: Tensor) -> None:
        # A token of probability 0 has a logit of minus infinity, and 0 times that is NaN.
        self.logits = logits.clamp_(min=-1e30)

    @cached_property
    def _probs(self) -> Tensor:
        return self.logits.softmax(-1)

    @cached_property
    def surest(self) -> Tensor:
        """The log-probability of the most probable token, [M, N]."""
        return self._probs.amax(-1).log()

    @cached_property
    def _total(self) -> Tensor:
        """The log-sum-exp of the logits, [M, N]; from the best token, which costs least."""
        return self.logits.amax(-1) - self.surest

    def of(self, tokens: Tensor) -> Tensor:
        """The log-probabilities of tokens [N, k], [M, N, k], at least -30 nats."""
        own = self.logits.gather(2, tokens.expand(len(self.logits), -1, -1))
        return (own - self._total[..., None]).clamp_(min=-30.0)

    def entropy(self) -> Tensor:
        """The entropies, [M, N], in nats."""
        mean: Tensor = torch.linalg.vecdot(self._probs, self.logits)
        return self._total - mean

    def rank(self, model: int, token: Tensor) -> Tensor:
        """The ranks [N] of tokens [N] under a model: how many tokens are more probable."""
        logits = self.logits[model]
        return (logits > logits.gather(1, token[:, None])).sum(-1)

    def best(self, count: int) -> Tensor:
        """The most probable tokens, [M, N, count]."""
        return self.logits.topk(min(count, self.logits.shape[2]), -1).indices


TARGET, DRAFT = 0, 1
"""Indices of the models in a `ModelReading` of both."""


class Spot:
    """A single position on a CPU, in numbers.

    Between two passes of the models the code of tensor operations is no longer in the processor's
    cache, and each costs several times what it costs in a loop. So none are used here except over
    the vocabulary.

    Attributes:
        target: log-probabilities of both tokens under the target, and its entropy.
        draft: log-probabilities of both tokens under the draft, and its entropy.
    """

    def __init__(self, blocks: Blocks, row: int, place: int, draft: int, target: int) -> None:
        self._blocks, self._at, self._tokens = blocks, (row, place), (target, draft)

    @cached_property
    def target(self) -> PlainReading:
        """Log-probabilities of both tokens under the target, and its entropy."""
        return PlainReading.of(self._blocks.raw_target_logits[self._at], *self._tokens)

    @cached_property
    def draft(self) -> PlainReading:
        """Log-probabilities of both tokens under the draft, and its entropy."""
        return PlainReading.of(self._blocks.draft_row(*self._at), *self._tokens)


@dataclass(frozen=True, slots=True)
class PlainReading:
    """One model's numbers at a position.

    Attributes:
        of_target: log-probability of the target's token, at least -30 nats.
        of_draft: log-probability of the draft's token, at least -30 nats.
        entropy: entropy of the distribution, in nats.
    """

    of_target: float
    of_draft: float
    entropy: float

    @classmethod
    def of(cls, logits: Tensor, target: int, draft: int) -> PlainReading:
        """Compute the numbers from a model's logits [V]."""
        probs = logits.softmax(-1)
        mean = float(probs.dot(logits))
        if isnan(mean):  # tokens of probability 0
            mean = float(probs.dot(logits.clamp(min=-1e30)))
        p = [float(probs[target]), float(probs[draft])]
        token, surest = (target, p[0]) if p[0] >= p[1] else (draft, p[1])
        if surest < 1e-30:
            token = int(probs.argmax())
            surest = float(probs[token])
        total = float(logits[token]) - log(surest)
        of_target, of_draft = (max(log(value), -30.0) if value > 0 else -30.0 for value in p)
        return cls(of_target, of_draft, total - mean)
