"""The four operations that programs are made of, and their results.

A program is a generator for one sequence: it yields an operation, is sent the operation's result,
and never sees a batch. The engine runs the operations of all live programs together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stet.policies.base import Need, TokenPolicy
from stet.sequence import Ruling, Sequence


@dataclass(slots=True, eq=False)
class DraftBatch:
    """What one batched run of the draft wrote; blocks are rows of it.

    Attributes:
        tokens: [B, K] int64 on the device.
        probs: [B, K, V] what they were sampled from; None where every row was certain.
        logits: [B, K, V] raw logits, where asked for.
        hidden: [B, K, D] last hidden states, where asked for.
    """

    tokens: Tensor
    probs: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None

    def rows(self, index: Tensor) -> DraftBatch:
        """Some rows of the batch: `index` is [b] int64."""

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


EMPTY = Block(0, known=[])
"""A block of nothing: scoring it is plain decoding."""


@dataclass(slots=True, eq=False)
class Draft:
    """The draft writes up to `count` tokens after the sequence. Result: a `Block`.

    Attributes:
        until: ends the drafting early: called with the tokens drafted so far, where looking costs
            no wait for the device.
        needs: what to keep for the policy that will rule.
    """

    sequence: Sequence
    count: int
    until: Callable[[list[int]], bool] | None = None
    needs: frozenset[Need] = field(default_factory=frozenset[Need])


@dataclass(slots=True, eq=False)
class Score:
    """One target pass over a block, and the policy's ruling. Result: a `Ruling`.

    Without a policy the result is a list of floats: the target's raw log-probability of each token
    of the block, in nats.
    """

    sequence: Sequence
    block: Block
    policy: TokenPolicy | None


@dataclass(slots=True, eq=False)
class Join:
    """Run programs side by side. Result: the list of their return values."""

    programs: list[Program]


@dataclass(slots=True, eq=False)
class Await:
    """Wait for something outside the engine without holding anyone up. Result: its value."""

    awaitable: Awaitable[Any]


Operation = Draft | Score | Join | Await
Program = Generator[Operation, Any, Any]

__all__ = [
    "EMPTY",
    "Await",
    "Block",
    "Draft",
    "DraftBatch",
    "Join",
    "Operation",
    "Program",
    "Ruling",
    "Score",
]
