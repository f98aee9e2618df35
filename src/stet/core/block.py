"""Drafted tokens on their way from the draft to the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stet.core.wide import best, entropy, logprobs_of

Numbers = list[float] | Callable[[], list[float]]
"""A list of numbers, or a function that computes it."""


STATISTICS = frozenset({"logprobs", "entropies", "margins"})
"""Names of the lists that `Statistics` holds."""


class Statistics:
    """Statistics of a model's raw distributions at tokens that it wrote, one entry for each token.

    Every list is computed when it is first read, so that what no signal asks for costs nothing.

    Args:
        logprobs: see the property; the numbers, or a function that computes them.
        entropies: see the property; the numbers, or a function that computes them.
        margins: see the property; the numbers, or a function that computes them.
    """

    __slots__ = ("_entropies", "_logprobs", "_margins")

    def __init__(self, logprobs: Numbers, entropies: Numbers, margins: Numbers) -> None:
        self._logprobs = logprobs
        self._entropies = entropies
        self._margins = margins

    @classmethod
    def join(cls, parts: Sequence[Statistics], count: int) -> Statistics:
        """Statistics of the first `count` tokens of several blocks, one block after the other."""
        return cls(
            lambda: [x for part in parts for x in part.logprobs][:count],
            lambda: [x for part in parts for x in part.entropies][:count],
            lambda: [x for part in parts for x in part.margins][:count],
        )

    def select(self, names: frozenset[str]) -> Statistics:
        """Compute some of the lists now, so that the distributions can be freed.

        Args:
            names: the lists to compute, from `STATISTICS`.
        """

        def missing() -> list[float]:
            raise RuntimeError("name them in the policy's `statistics` to read these statistics")

        found: list[Numbers] = [
            getattr(self, name) if name in names else missing
            for name in ("logprobs", "entropies", "margins")
        ]
        return Statistics(*found)

    @property
    def logprobs(self) -> list[float]:
        """Log-probability of each token, in nats."""
        if not isinstance(self._logprobs, list):
            self._logprobs = self._logprobs()
        return self._logprobs

    @property
    def entropies(self) -> list[float]:
        """Entropy of the distribution at each token, in nats."""
        if not isinstance(self._entropies, list):
            self._entropies = self._entropies()
        return self._entropies

    @property
    def margins(self) -> list[float]:
        """Log-probability of the best token less that of the second best at each token, in nats."""
        if not isinstance(self._margins, list):
            self._margins = self._margins()
        return self._margins


@dataclass(frozen=True, slots=True)
class Reading:
    """Statistics of the target's raw distributions at the tokens of a block, one entry for each.

    Attributes:
        logprobs: log-probability of each token, in nats.
        margins: log-probability of each token less that of the best other one, in nats; negative
            where the target would have written another token.
        ranks: 1 and the number of tokens that are more probable; of pieces of texts alone.
        top: the most probable tokens with their log-probabilities, the best first; of pieces of
            texts alone.
    """

    logprobs: list[float]
    margins: list[float]
    ranks: list[int] = field(default_factory=list[int])
    top: list[dict[int, float]] = field(default_factory=list[dict[int, float]])


class Steps:
    """Logits of K positions that were computed one at a time; joined when they are read whole.

    Most of them are read only at mismatches, or not at all.

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
        """The number of positions, K."""
        return self._length

    @property
    def whole(self) -> Tensor:
        """The logits of all positions, [B, K, V]."""
        if self._whole is None:
            self._whole = torch.cat(self._steps, 1)
            self._steps.clear()  # or they would be held twice
        return self._whole

    def at(self, row: int, place: int) -> Tensor:
        """The logits of one position, [V]."""
        if self._whole is not None:
            return self._whole[row, place]
        return self._steps[place][row, 0]


def whole(logits: Tensor | Steps) -> Tensor:
    """Return logits as one tensor, [B, K, V]."""
    return logits.whole if isinstance(logits, Steps) else logits


@dataclass(slots=True, eq=False)
class DraftBatch:
    """The tokens that one batched run of the draft wrote; each block is a row of it.

    Attributes:
        tokens: [B, K] int64 on the device.
        probs: [B, K, V] the distributions they were sampled from; None where no row was sampled.
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
        """Statistics of the first `length` tokens of a block; needs the logits."""
        return Statistics(
            lambda: (self.logprobs or self._column("logprobs", _logprobs))[row][:length],
            lambda: self._column("entropies", _entropies)[row][:length],
            lambda: self._column("margins", _margins)[row][:length],
        )

    def _column(self, name: str, of: Callable[[Tensor, Tensor], Tensor]) -> list[list[float]]:
        """Compute one statistic of all rows and bring it to the host in one transfer."""
        found = self._columns.get(name)
        if found is None:
            assert self.logits is not None
            found = self._columns[name] = of(whole(self.logits), self.tokens).tolist()
        return found

    def rows(self, index: Tensor) -> DraftBatch:
        """Select rows of the batch, without attention, which no token policy reads.

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
        length: how many tokens.
        batch: the batch that they are in; None where they were never on the device.
        row: their row in the batch.
        known: the tokens on the host; None where they are on the device alone.
        seconds: this block's share of the draft's time.
    """

    length: int
    batch: DraftBatch | None = None
    row: int = 0
    known: list[int] | None = None
    seconds: float = 0.0

    @property
    def tokens(self) -> list[int]:
        """The tokens, on the host; the first read waits for the device."""
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
        """Attention weights by floor, each [layers, length, S]; None where they were not kept."""
        if self.batch is None or self.batch.attention is None:
            return None
        return {
            floor: weights[self.row, :, : self.length]
            for floor, weights in self.batch.attention.items()
        }

    @property
    def statistics(self) -> Statistics | None:
        """Statistics of the draft's distributions; None where its logits were not kept."""
        if self.batch is None or self.batch.logits is None:
            return None
        return self.batch.statistics(self.row, self.length)


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of the tokens, [B, K]."""
    return logprobs_of(logits, tokens[..., None])[..., 0]


def _entropies(logits: Tensor, tokens: Tensor) -> Tensor:
    """Entropies of the distributions, [B, K]."""
    del tokens
    return entropy(logits)


def _margins(logits: Tensor, tokens: Tensor) -> Tensor:
    """Best logit less the second best, [B, K]."""
    del tokens
    two, _ = best(logits, 2)
    return two[..., 0] - two[..., 1]


EMPTY = Block(0, known=[])
"""A block without tokens; scoring it is plain decoding."""
