"""Logits of hidden states: of the whole vocabulary, or of a shortlist of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LogitHead:
    """How a model turns its last hidden state into logits.

    Attributes:
        linear: the output embedding.
        factor: logits are multiplied by it.
        softcap: logits are then squashed to (-softcap, softcap) by tanh.
        size: logits from here on belong to no token and are cut off; None: all are kept.
    """

    linear: nn.Module
    factor: float = 1.0
    softcap: float | None = None
    size: int | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Compute logits [..., V] of hidden states [..., D].

        The hidden states are passed as a matrix: given a slice of a longer pass, whose strides do
        not let its first dimensions be taken for one, `linear` would copy the whole weight for each
        of its rows.
        """
        logits: Tensor = self.linear(hidden.reshape(-1, hidden.shape[-1]))
        if self.size is not None:
            # The product is cut, not the weight: accelerators are faster at even widths.
            logits = logits[:, : self.size]
        logits = logits.unflatten(0, hidden.shape[:-1])
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


_RECENT = 64
"""Tokens at a text's end by which a shortlist is judged."""
_OUTSIDE = 0.1
"""The most of them that may be missing from it. A text in another language or script has more."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """A vocabulary's frequent tokens and its added ones, whose logits cost little.

    Of a draft of 0.5B with a vocabulary of 150,000 a quarter of the weights are its head, read at
    every token for logits of tokens that it will not write. Where a text does not depend on what is
    drafted, it chooses among these tokens instead. Tokenizers of byte pairs number tokens as they
    were merged, the frequent ones first, so the shortlist is the first ids and, for ends of turns
    and the like, the last ones. Both parts are views of the whole head.

    Attributes:
        frequent: the head of the tokens below `count`.
        added: the head of the tokens from `start` on; None for none.
        count: number of frequent tokens.
        start: id of the first token after those that are left out.
        size: S, number of tokens in the shortlist.

    Source: after Zhao et al., "FR-Spec: Accelerating Large-Vocabulary Language Models via
    Frequency-Ranked Speculative Sampling", 2025, which ranks tokens by their frequency in a corpus.
    """

    frequent: LogitHead
    added: LogitHead | None
    count: int
    start: int
    size: int

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits [..., S] of hidden states [..., D]."""
        frequent = self.frequent(hidden)
        return frequent if self.added is None else torch.cat([frequent, self.added(hidden)], -1)

    def tokens(self, indices: Tensor) -> Tensor:
        """The ids of tokens that are given by their places in the shortlist."""
        return torch.where(indices < self.count, indices, indices + (self.start - self.count))

    def index(self, token: int) -> int | None:
        """The place of a token in the shortlist; None where it is not in it."""
        if token < self.count:
            return token
        return token - self.start + self.count if token >= self.start else None

    def suits(self, tokens: Sequence[int]) -> bool:
        """Whether nearly all of the last tokens of a text are in the shortlist."""
        recent = tokens[-_RECENT:]
        outside = sum(self.count <= token < self.start for token in recent)
        return outside <= _OUTSIDE * len(recent)
