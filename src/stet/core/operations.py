"""The four operations that programs are made of, and their results.

A program is a generator for one sequence: it yields an operation, is sent the operation's result,
and never sees a batch. The engine runs the operations of all live programs together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stet.core.block import Block
from stet.core.needs import AttentionCapture, Need
from stet.core.sequence import TokenSequence

if TYPE_CHECKING:
    from stet.core.policy import TokenPolicy


@dataclass(slots=True, eq=False)
class Draft:
    """The draft writes up to `count` tokens after the sequence. Result: a `Block`.

    Attributes:
        until: ends the drafting early where it returns true; called with the tokens drafted so far,
            where looking costs no wait for the device.
        doubt: ends the drafting early where it returns true; called with the draft's raw
            log-probability of each token drafted so far, where looking costs no wait.
        floor: drafting ends below this confidence in the block; None: as the sequence's rule says.
        needs: what to keep for the policy that decides.
        capture: which attention weights to keep for it; None: none.
        shortlist: the text is the same whatever is drafted, and the draft may choose among the
            shortlist of its tokens, if it has one.
        least: the text is the same whatever is drafted, and the engine may shorten the block to so
            many tokens where a round is full; None: it may not.
        bonus: whether a token follows the block at once where all of it is accepted.
        read: the draft writes nothing, but reads so many of the sequence's last tokens in one pass,
            which `count` stands for: it is 1. The block is made of these tokens, with what `needs`
            asks for.
    """

    sequence: TokenSequence
    count: int
    until: Callable[[list[int]], bool] | None = None
    doubt: Callable[[list[float]], bool] | None = None
    floor: float | None = None
    needs: frozenset[Need] = field(default_factory=frozenset[Need])
    capture: AttentionCapture | None = None
    shortlist: bool = False
    least: int | None = None
    bonus: bool = True
    read: int = 0


@dataclass(slots=True, eq=False)
class Score:
    """One target pass over a block, and the policy's decision. Result: an `Acceptance`.

    Without a policy the result is a `Reading`: the target's statistics of the block's tokens. With
    `choices` as well it is a list of floats: the target's raw log-probability, in nats, of each of
    these tokens as the one right after the block.

    Attributes:
        reading: with a policy, let the result hold a reading as well.
        choices: without a policy, tokens whose log-probabilities are to be compared.
        after: whether the target reads the block's last token, too. Nobody needs what it says after
            that token where the policy defers the bonus token and does not look so far.
        top: without a policy, the block is a piece of a text that is there already: its reading has
            ranks, and this many of the most probable tokens. Pieces have passes of their own, and
            wait for the next round where this one has read enough. None: it is none.
    """

    sequence: TokenSequence
    block: Block
    policy: TokenPolicy | None
    reading: bool = False
    choices: tuple[int, ...] = ()
    after: bool = True
    top: int | None = None


@dataclass(slots=True, eq=False)
class Join:
    """Run programs side by side. Result: the list of their return values."""

    programs: list[Program]


@dataclass(slots=True, eq=False)
class Await:
    """Wait for something outside the engine while others go on. Result: its value."""

    awaitable: Awaitable[Any]


Operation = Draft | Score | Join | Await
Program = Generator[Operation, Any, Any]
