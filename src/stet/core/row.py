"""A sequence's places in the models' caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Self

Role = Literal["target", "draft"]
"""A model of the pair."""

PAGE = 16
"""Tokens of a page of a cache; `PAGE` of attention.c."""


def pages_for(rows: int, length: int) -> int:
    """The pages of a cache for so many rows of so many tokens; one more takes what pads write."""
    return rows * -(-length // PAGE) + 1


@dataclass(slots=True, eq=False)
class Row:
    """A sequence's place in a runner's cache.

    Attributes:
        pages: the pages of the cache that hold its tokens, in order. Others may hold some of them,
            too; the runner sees to it that nobody writes to those.
        valid: number of cached tokens that agree with the sequence's token list. Lowering it
            rewinds the row.
        live: whether it was not released yet.
    """

    pages: list[int] = field(default_factory=list[int])
    valid: int = 0
    live: bool = True


class Places:
    """The places that a sequence has in the caches, and how candidates come by theirs.

    Which sequence holds which row is decided here alone; the engine gives rows to those that have
    none, and takes back what is released.

    Attributes:
        rows: the place in each model's cache.
        prompt_length: tokens that the sequence began with; for a candidate, all of its parent's.
        parent: for a candidate, the sequence that it continues; None otherwise.
        only_child: whether it is the only candidate, which may use its parent's places.
        others: those that have places on its behalf: live candidates, and others of its program's.
        release: gives back all places of a sequence; the engine sets it.
    """

    prompt_length: int

    def __init__(self) -> None:
        self.rows: dict[Role, Row] = {}
        self.parent: Self | None = None
        self.only_child = False
        self.others: list[Self] = []
        self.release: Callable[[Self], None] = _nothing_to_release

    def family(self) -> Iterator[Self]:
        """This sequence, and all that have places in the caches on its behalf."""
        yield self
        for other in self.others:
            yield from other.family()

    def rewind(self, length: int, target: int | None = None) -> None:
        """Let both caches be valid for at most `length` tokens; the target's for `target`."""
        for role, row in self.rows.items():
            most = target if role == "target" and target is not None else length
            row.valid = min(row.valid, most)

    def borrow(self, role: Role) -> Row | None:
        """Take over the parent's place in a cache, where that is this candidate's alone to use."""
        if self.parent is None or not self.only_child:
            return None
        row = self.parent.rows.pop(role, None)
        if row is not None:
            row.valid = min(row.valid, self.prompt_length)
            self.rows[role] = row
        return row

    def give_back(self) -> None:
        """Return the borrowed places to the parent, unless it has others by now."""
        if self.parent is None or not self.only_child:
            return
        for role in [r for r in self.rows if r not in self.parent.rows]:
            row = self.parent.rows[role] = self.rows.pop(role)
            row.valid = min(row.valid, self.prompt_length)

    def take_cache(self, child: Self, role: Role) -> None:
        """Take over a candidate's place in a cache; it is left with this sequence's own.

        Where its text is not taken over too, the cache has read ahead of this sequence the tokens
        that are verified next.
        """
        theirs = child.rows.pop(role, None)
        if theirs is not None:
            mine = self.rows.get(role)
            self.rows[role] = theirs
            if mine is not None:
                child.rows[role] = mine

    def lend_cache(self, child: Self, role: Role) -> None:
        """Give an only candidate this sequence's place in a cache, with what was read ahead."""
        row = self.rows.pop(role, None)
        if row is not None:
            child.rows[role] = row


def _nothing_to_release(sequence: Places) -> None:
    """Release nothing: the engine has given the sequence no rows yet."""
    del sequence
