"""Allocation of the rows of a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stet.core.errors import CapacityError
from stet.core.row import Row
from stet.engine.kv_cache import KVCache

LEAST = 16
"""The fewest tokens that are worth taking from another text."""


class Rows:
    """The live rows of a cache, which always are its first ones.

    With `keep`, rows that are given back keep their text until they are needed: a text that begins
    as one of them, or as the prompt of a live one, does so in the cache, too.

    Args:
        cache: the cache.
        name: name of the model, for messages.

    Attributes:
        keep: whether texts are kept and looked for.
    """

    def __init__(self, cache: KVCache, name: str) -> None:
        self._cache = cache
        self._name = name
        self._live: list[Row] = []
        # Per cache row that is free, how many of its slots may hold something other than zero,
        # and the text that its first slots hold.
        self._left = [0] * cache.rows
        self._texts: list[list[int]] = [[]] * cache.rows
        self.keep = False

    @property
    def count(self) -> int:
        """Number of live rows."""
        return len(self._live)

    def allocate(self, tokens: Sequence[int] = (), lasting: int = 0) -> Row:
        """Allocate a row; see `Runner.allocate`."""
        index = len(self._live)
        if index == self._cache.rows:
            raise CapacityError(
                f"All {self._cache.rows} rows of {self._name} are taken; "
                "release one or make the runner with more max_rows."
            )
        known = self._begin(index, list(tokens)) if self.keep and len(tokens) >= LEAST else 0
        self._clear(index, known, self._left[index])
        self._left[index], self._texts[index] = 0, []
        row = Row(index, known, known, list(tokens[:lasting]) if self.keep else [])
        self._live.append(row)
        return row

    def release(self, row: Row, tokens: Sequence[int] = ()) -> None:
        """Give a row back; the last one moves into the hole."""
        if row.index < 0:
            return
        hole, last = row.index, self._live.pop()
        place, text = last.index, list(tokens[: row.valid]) if self.keep else []
        if text:
            if last is not row:
                with torch.inference_mode():
                    self._cache.swap(hole, place, max(row.written, last.written))
            self._left[place] = row.written
        else:
            self._left[place] = last.written
            if last is not row:
                with torch.inference_mode():
                    self._cache.copy(place, [hole], last.valid)
                self._clear(hole, last.valid, row.written)
                last.written = last.valid
        self._texts[place] = text
        if last is not row:
            self._live[hole] = last
            last.index = hole
        row.index, row.valid = -1, 0

    def fork(self, row: Row, count: int) -> list[Row]:
        """Copy a row to new ones; see `Runner.fork`."""
        free = self._cache.rows - len(self._live)
        if count > free:
            raise CapacityError(
                f"{count} rows of {self._name} are needed and {free} are free; "
                "ask for fewer candidates or make the runner with more max_rows."
            )
        children = [self.allocate() for _ in range(count)]
        with torch.inference_mode():
            self._cache.copy(row.index, [c.index for c in children], row.valid)
        for child in children:
            child.valid = child.written = row.valid
        return children

    def scrub(self, row: Row) -> None:
        """Empty a row and zero its memory."""
        self._clear(row.index, 0, row.written)
        row.valid = row.written = 0

    def forget(self) -> None:
        """Forget the texts of free rows."""
        self._texts = [[]] * self._cache.rows

    def _begin(self, index: int, tokens: list[int]) -> int:
        """Let a free row begin as a text that is in the cache already; returns how far.

        A text of a free row is moved, so that it is there still when it is asked for once more;
        that of a live one is copied.
        """
        free = range(index, self._cache.rows)
        place = max(free, key=lambda i: (shared(self._texts[i], tokens), -i))
        length = shared(self._texts[place], tokens)
        live = {row.index: min(shared(row.prompt, tokens), row.valid) for row in self._live}
        source = max(live, key=lambda i: live[i], default=-1)
        if source >= 0 and live[source] > length:
            if live[source] < LEAST:
                return 0
            empty = next((i for i in free if not self._texts[i]), index)
            self._swap(index, empty)
            with torch.inference_mode():
                self._cache.copy(source, [index], live[source])
            return live[source]
        if length < LEAST:
            return 0
        self._swap(index, place)
        return length

    def _swap(self, one: int, other: int) -> None:
        """Exchange two free rows."""
        left, texts = self._left, self._texts
        with torch.inference_mode():
            self._cache.swap(one, other, max(left[one], left[other]))
        left[one], left[other] = left[other], left[one]
        texts[one], texts[other] = texts[other], texts[one]

    def _clear(self, index: int, start: int, stop: int) -> None:
        if start < stop:
            with torch.inference_mode():
                self._cache.clear(index, start, stop)


def shared(one: list[int], other: list[int]) -> int:
    """The number of tokens with which both begin."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    low, high = 0, most  # equal up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
