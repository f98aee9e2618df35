"""Drafted tokens on their way from the draft to the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stet.core.wide import best, entropy, logprobs_of

Numbers = list[float] | Callable[[], list[float]]
"""Numbers, or what computes them."""


STATISTICS = frozenset({"logprobs", "entropies", "margins"})
"""What there is of `Statistics`."""


class Statistics:
    """What a model's raw distributions say of tokens it wrote, one entry each.

    Every list is computed when it is first read: what no signal asks for costs nothing.

    Args:
        logprobs: see the attributes, each the numbers or what computes them.
        entropies: likewise.
        margins: likewise.
    """

    __slots__ = ("_entropies", "_logprobs", "_margins")

    def __init__(self, logprobs: Numbers, entropies: Numbers, margins: Numbers) -> None:
        self._logprobs = logprobs
        self._entropies = entropies
        self._margins = margins

    @classmethod
    def joined(cls, parts: Sequence[Statistics], count: int) -> Statistics:
        """Of the first `count` tokens that several blocks hold one after the other."""
        return cls(
            lambda: [x for part in parts for x in part.logprobs][:count],
            lambda: [x for part in parts for x in part.entropies][:count],
            lambda: [x for part in parts for x in part.margins][:count],
        )

    def only(self, names: frozenset[str]) -> Statistics:
        """Some of them, computed now, so that the distributions need not be held any longer.

        Args:
            names: of `STATISTICS`.
        """

        def missing() -> list[float]:
            raise RuntimeError("name them in the policy's `statistics` to read these")

        found: list[Numbers] = [
            getattr(self, name) if name in names else missing
            for name in ("logprobs", "entropies", "margins")
        ]
        return Statistics(*found)

    @property
    def logprobs(self) -> list[float]:
        """Of the token, in nats."""
        if not isinstance(self._logprobs, list):
            self._logprobs = self._logprobs()
        return self._logprobs

    @property
    def entropies(self) -> list[float]:
        """Of the distribution, in nats."""
        if not isinstance(self._entropies, list):
            self._entropies = self._entropies()
        return self._entropies

    @property
    def margins(self) -> list[float]:
        """Log-probability of the best token less that of the second best, in nats."""
        if not isinstance(self._margins, list):
            self._margins = self._margins()
        return self._margins


@dataclass(frozen=True, slots=True)
class Reading:
    """What the target's raw distributions say of tokens that the draft wrote, one entry each.

    Attributes:
        logprobs: of the token, in nats.
        margins: log-probability of the token less that of the best other one, in nats; negative
            where the target would have written something else.
    """

    logprobs: list[float]
    margins: list[float]


class Steps:
    """Logits of K positions that were written one at a time; joined when they are read whole.

    Most are read at the few places where the models disagree, if at all.

    Args:
        steps: K tensors [B, 1, V].

    Attributes:
        size: V.
    """

    __slots__ = ("_length", "_steps", "_whole", "size")

    def __init__(self, steps: Sequence[Tensor]) -> None:
        self._steps = list(steps)
        self._whole: Tensor | None = None
        self._length = len(steps)
        self.size: int = steps[0].shape[2]

    def __len__(self) -> int:
        """K."""
        return self._length

    @property
    def whole(self) -> Tensor:
        """[B, K, V]."""
        if self._whole is None:
            self._whole = torch.cat(self._steps, 1)
            self._steps.clear()  # or they would be held twice
        return self._whole

    def at(self, row: int, place: int) -> Tensor:
        """[V] of one position."""
        if self._whole is not None:
            return self._whole[row, place]
        return self._steps[place][row, 0]


def whole(logits: Tensor | Steps) -> Tensor:
    """[B, K, V] logits as one tensor."""
    return logits.whole if isinstance(logits, Steps) else logits


@dataclass(slots=True, eq=False)
class DraftBatch:
    """What one batched run of the draft wrote; blocks are rows of it.

    Attributes:
        tokens: [B, K] int64 on the device.
        probs: [B, K, V] what they were sampled from; None where every row was certain.
        logits: [B, K, V] raw logits, where asked for; `whole` makes one tensor of them.
        hidden: [B, K, D] last hidden states, where asked for.
        attention: for each floor that was asked for (`AttentionCapture.floors`) the attention
            weights of the queries that drew the tokens, [B, layers, K, S] float32 over the
            positions 0 .. S - 1, averaged over heads; the last layers, ascending.
        logprobs: raw log-probabilities of the tokens, in nats, where they had to be known while
            drafting; otherwise they are computed from the logits when somebody reads them.
    """

    tokens: Tensor
    probs: Tensor | None = None
    logits: Tensor | Steps | None = None
    hidden: Tensor | None = None
    attention: dict[float, Tensor] | None = None
    logprobs: list[list[float]] | None = None
    _columns: dict[str, list[list[float]]] = field(
        default_factory=dict[str, list[list[float]]], init=False
    )

    def statistics(self, row: int, length: int) -> Statistics:
        """Of the first `length` tokens of a block; needs the logits."""
        return Statistics(
            lambda: (self.logprobs or self._column("logprobs", _logprobs))[row][:length],
            lambda: self._column("entropies", _entropies)[row][:length],
            lambda: self._column("margins", _margins)[row][:length],
        )

    def _column(self, name: str, of: Callable[[Tensor, Tensor], Tensor]) -> list[list[float]]:
        """Numbers of all rows on the host, computed in one go and fetched in one transfer."""
        found = self._columns.get(name)
        if found is None:
            assert self.logits is not None
            found = self._columns[name] = of(whole(self.logits), self.tokens).tolist()
        return found

    def rows(self, index: Tensor) -> DraftBatch:
        """Some rows of the batch, without attention, which no token policy reads.

        Args:
            index: [b] int64.
        """

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return DraftBatch(
            self.tokens[index],
            pick(self.probs),
            None if self.logits is None else whole(self.logits)[index],
            pick(self.hidden),
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
        return self.batch.statistics(self.row, self.length).logprobs

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


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """[B, K] log-probabilities of the tokens."""
    return logprobs_of(logits, tokens[..., None])[..., 0]


def _entropies(logits: Tensor, tokens: Tensor) -> Tensor:
    """[B, K] entropies."""
    del tokens
    return entropy(logits)


def _margins(logits: Tensor, tokens: Tensor) -> Tensor:
    """[B, K] best logit less the second best."""
    del tokens
    two, _ = best(logits, 2)
    return two[..., 0] - two[..., 1]


EMPTY = Block(0, known=[])
"""A block of nothing: scoring it is plain decoding."""
