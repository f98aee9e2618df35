"""Allocation of the rows of a cache."""

from __future__ import annotations

import torch

from stet.core.errors import CapacityError
from stet.core.row import Row
from stet.engine.kv_cache import KVCache


class Rows:
    """The live rows of a cache, which always are its first ones.

    Args:
        cache: the cache.
        name: name of the model, for messages.
    """

    def __init__(self, cache: KVCache, name: str) -> None:
        self._cache = cache
        self._name = name
        self._live: list[Row] = []
        # Per cache row that is free, how many of its slots may hold something other than zero.
        self._left = [0] * cache.rows

    @property
    def count(self) -> int:
        """Number of live rows."""
        return len(self._live)

    def allocate(self) -> Row:
        """Allocate an empty row; see `Runner.allocate`."""
        index = len(self._live)
        if index == self._cache.rows:
            raise CapacityError(
                f"All {self._cache.rows} rows of {self._name} are taken; "
                "release one or make the runner with more max_rows."
            )
        self._clear(index, 0, self._left[index])
        self._left[index] = 0
        row = Row(index)
        self._live.append(row)
        return row

    def release(self, row: Row) -> None:
        """Give a row back; the last one moves into the hole."""
        if row.index < 0:
            return
        hole, last = row.index, self._live.pop()
        self._left[last.index] = last.written
        if last is not row:
            with torch.inference_mode():
                self._cache.copy(last.index, [hole], last.valid)
            self._clear(hole, last.valid, row.written)
            self._live[hole] = last
            last.index, last.written = hole, last.valid
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

    def _clear(self, index: int, start: int, stop: int) -> None:
        if start < stop:
            with torch.inference_mode():
                self._cache.clear(index, start, stop)
