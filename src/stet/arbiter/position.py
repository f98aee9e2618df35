"""A disagreement as a ruling finds it: many at once as tensors, a single one in numbers."""

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
    """N positions of a batch of blocks, at which the draft's token d stands against the target's t.

    Attributes:
        blocks: the batch.
        mismatches: what each model wants.
        rows: [N] int64, the block of each.
        places: [N] int64, its position in the block.
        draft: [N] int64, d.
        target: [N] int64, t.
    """

    blocks: Blocks
    mismatches: Mismatches
    rows: Tensor
    places: Tensor
    draft: Tensor
    target: Tensor

    @cached_property
    def both(self) -> ModelReading:
        """What the target makes of the positions, and then the draft, if its logits were kept.

        Read together: what counts at these sizes is the number of operations.
        """
        blocks = self.blocks
        models = [blocks.raw_target_logits]
        if blocks.has_draft_logits:
            models.append(blocks.raw_draft_logits)
        shape = (len(models), len(self.rows), models[0].shape[2])
        out = torch.empty(shape, device=self.rows.device)
        for model, logits in enumerate(models):
            torch.index_select(logits.flatten(0, 1), 0, self._flat(logits), out=out[model])
        return ModelReading(out)

    @cached_property
    def logprobs(self) -> tuple[Tensor, ...]:
        """[N] each: log p of t and of d under the target, then of t and of d under the draft."""
        tokens = torch.stack([self.target, self.draft], 1)
        found = self.both.of(tokens).transpose(1, 2).flatten(0, 1)
        return tuple(found.unbind())

    @cached_property
    def entropies(self) -> tuple[Tensor, ...]:
        """[N] each: the target's entropy, and the draft's."""
        return tuple(self.both.entropy().unbind())

    @cached_property
    def after(self) -> ModelReading:
        """What the target makes of the next position if d stands, [1, N, V]."""
        logits = self.blocks.raw_target_logits
        return ModelReading(logits.flatten(0, 1).index_select(0, self._flat(logits) + 1)[None])

    def _flat(self, values: Tensor) -> Tensor:
        """Places in [B, K, V] with its first two dimensions as one: whole rows are fast to pick."""
        return self.rows * values.shape[1] + self.places


class ModelReading:
    """Raw distributions of M models at N positions, V tokens each, in few passes over V.

    Args:
        logits: [M, N, V] float32; overwritten.

    Attributes:
        logits: the same without infinities.
    """

    def __init__(self, logits: Tensor) -> None:
        # A token without any probability has a logit of minus infinity, and 0 times that is no
        # number.
        self.logits = logits.clamp_(min=-1e30)

    @cached_property
    def _probs(self) -> Tensor:
        return self.logits.softmax(-1)

    @cached_property
    def surest(self) -> Tensor:
        """[M, N]: the best token's log-probability."""
        return self._probs.amax(-1).log()

    @cached_property
    def _total(self) -> Tensor:
        """[M, N]: log of the sum of all exponentials; a logarithm of V numbers would cost more."""
        return self.logits.amax(-1) - self.surest

    def of(self, tokens: Tensor) -> Tensor:
        """[M, N, k]: the log-probabilities of tokens [N, k], no less than -30 nats."""
        own = self.logits.gather(2, tokens.expand(len(self.logits), -1, -1))
        return (own - self._total[..., None]).clamp_(min=-30.0)

    def entropy(self) -> Tensor:
        """[M, N], in nats."""
        mean: Tensor = torch.linalg.vecdot(self._probs, self.logits)
        return self._total - mean

    def rank(self, model: int, token: Tensor) -> Tensor:
        """[N]: how many tokens a model finds more probable than tokens [N]."""
        logits = self.logits[model]
        return (logits > logits.gather(1, token[:, None])).sum(-1)

    def best(self, count: int) -> Tensor:
        """[M, N, count]: the most probable tokens."""
        return self.logits.topk(min(count, self.logits.shape[2]), -1).indices


TARGET, DRAFT = 0, 1
"""The models' places in a `ModelReading` of both."""


class Spot:
    """A single position on a CPU, in numbers.

    Between two passes of the models every tensor operation finds its code driven out of the
    processor's cache and costs several times what it costs in a loop; so but for the few that go
    over a vocabulary there are none here.

    Attributes:
        target: what the target makes of its own token, of the draft's, and its entropy.
        draft: the same of the draft.
    """

    def __init__(self, blocks: Blocks, row: int, place: int, draft: int, target: int) -> None:
        self._blocks, self._at, self._tokens = blocks, (row, place), (target, draft)

    @cached_property
    def target(self) -> PlainReading:
        """Under the target."""
        return PlainReading.of(self._blocks.raw_target_logits[self._at], *self._tokens)

    @cached_property
    def draft(self) -> PlainReading:
        """Under the draft."""
        return PlainReading.of(self._blocks.draft_row(*self._at), *self._tokens)


@dataclass(frozen=True, slots=True)
class PlainReading:
    """What one model makes of a position.

    Attributes:
        of_target: log-probability of the target's token, no less than -30 nats.
        of_draft: of the draft's.
        entropy: in nats.
    """

    of_target: float
    of_draft: float
    entropy: float

    @classmethod
    def of(cls, logits: Tensor, target: int, draft: int) -> PlainReading:
        """Of a distribution over V tokens, by its logits [V]."""
        probs = logits.softmax(-1)
        mean = float(probs.dot(logits))
        if isnan(mean):  # tokens without any probability
            mean = float(probs.dot(logits.clamp(min=-1e30)))
        p = [float(probs[target]), float(probs[draft])]
        token, surest = (target, p[0]) if p[0] >= p[1] else (draft, p[1])
        if surest < 1e-30:
            token = int(probs.argmax())
            surest = float(probs[token])
        total = float(logits[token]) - log(surest)
        of_target, of_draft = (max(log(value), -30.0) if value > 0 else -30.0 for value in p)
        return cls(of_target, of_draft, total - mean)
