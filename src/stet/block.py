"""Drafted tokens on their way from the draft to the target."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a model's raw distributions say of tokens it wrote, one entry each.

    Attributes:
        logprobs: of the token, in nats.
        entropies: of the distribution, in nats.
        margins: log-probability of the best token less that of the second best, in nats.
    """

    logprobs: list[float]
    entropies: list[float]
    margins: list[float]


@dataclass(slots=True, eq=False)
class DraftBatch:
    """What one batched run of the draft wrote; blocks are rows of it.

    Attributes:
        tokens: [B, K] int64 on the device.
        probs: [B, K, V] what they were sampled from; None where every row was certain.
        logits: [B, K, V] raw logits, where asked for.
        hidden: [B, K, D] last hidden states, where asked for.
        attention: for each floor that was asked for (`Watch.floors`) the attention weights of the
            queries that drew the tokens, [B, layers, K, S] float32 over the positions 0 .. S - 1,
            averaged over heads; the last layers, ascending.
    """

    tokens: Tensor
    probs: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    attention: dict[float, Tensor] | None = None
    _numbers: list[list[list[float]]] | None = field(default=None, init=False)

    def statistics(self, row: int, length: int) -> Statistics:
        """Of the first `length` tokens of a block; needs the logits.

        Computed for all rows in one go and fetched in one transfer, when first asked for.
        """
        if self._numbers is None:
            assert self.logits is not None
            logprobs = self.logits.log_softmax(-1)
            best = logprobs.topk(2, -1).values
            numbers = torch.stack(
                (
                    logprobs.gather(2, self.tokens[..., None])[..., 0],
                    torch.special.entr(logprobs.exp()).sum(-1),
                    best[..., 0] - best[..., 1],
                ),
                1,
            )
            self._numbers = numbers.tolist()
        logprob, entropy, margin = self._numbers[row]
        return Statistics(logprob[:length], entropy[:length], margin[:length])

    def rows(self, index: Tensor) -> DraftBatch:
        """Some rows of the batch, without attention, which no token policy reads.

        Args:
            index: [b] int64.
        """

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return DraftBatch(
            self.tokens[index], pick(self.probs), pick(self.logits), pick(self.hidden)
        )


@dataclass(slots=True, eq=False)
class Block:
    """Drafted tokens of one sequence, still on the device.

    Attributes:
        length: how many.
        batch: where they are; None where they were never on the device.
        row: which row of the batch.
        known: the tokens on the host, where they are known there already.
        seconds: this block's share of the draft's time.
    """

    length: int
    batch: DraftBatch | None = None
    row: int = 0
    known: list[int] | None = None
    seconds: float = 0.0

    @property
    def tokens(self) -> list[int]:
        """The tokens on the host; waits for the device the first time."""
        if self.known is None:
            if self.batch is None:
                return []
            self.known = self.batch.tokens[self.row, : self.length].tolist()
        return self.known

    @property
    def logprobs(self) -> list[float] | None:
        """The draft's raw log-probability of each token, in nats; None where not kept."""
        if self.batch is None or self.batch.logits is None:
            return None
        logits = self.batch.logits[self.row, : self.length]
        tokens = self.batch.tokens[self.row, : self.length, None]
        values: list[float] = logits.log_softmax(-1).gather(1, tokens)[:, 0].tolist()
        return values

    @property
    def hidden(self) -> Tensor | None:
        """[length, D] the draft's last hidden states; None where they were not kept."""
        if self.batch is None or self.batch.hidden is None:
            return None
        return self.batch.hidden[self.row, : self.length]

    @property
    def attention(self) -> dict[float, Tensor] | None:
        """By floor [layers, length, S], see `DraftBatch`; None where it was not kept."""
        if self.batch is None or self.batch.attention is None:
            return None
        return {
            floor: weights[self.row, :, : self.length]
            for floor, weights in self.batch.attention.items()
        }

    @property
    def statistics(self) -> Statistics | None:
        """What the draft's distributions say of each token; None where they were not kept."""
        if self.batch is None or self.batch.logits is None:
            return None
        return self.batch.statistics(self.row, self.length)


EMPTY = Block(0, known=[])
"""A block of nothing: scoring it is plain decoding."""
