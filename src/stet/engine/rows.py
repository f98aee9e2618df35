"""The rows of a cache, each a list of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from stet.core.errors import CapacityError
from stet.core.row import PAGE, Row
from stet.engine.kv_cache import KVCache
from stet.engine.pages import Pages


class Rows:
    """The live rows of a cache.

    A fork shares its parent's whole pages, and pages are known by what they hold: a text that
    begins as one that is in the cache begins there, too.

    Args:
        cache: the cache.
        count: the most rows.
        length: the most tokens of a row.
        name: name of the model, for messages.

    Attributes:
        keep: whether texts of rows that are given back are kept until their pages are needed.
    """

    def __init__(self, cache: KVCache, count: int, length: int, name: str) -> None:
        self._cache = cache
        self._most = count
        self._length = length
        self._name = name
        self.pages = Pages(cache.pages)
        self.count = 0
        self.keep = False

    def allocate(self, tokens: Sequence[int] = ()) -> Row:
        """Allocate a row; see `Runner.allocate`."""
        if self.count == self._most:
            raise CapacityError(
                f"All {self._most} rows of {self._name} are taken; "
                "release one or make the runner with more max_rows."
            )
        self.count += 1
        found = self.pages.find(tokens)
        for page in found:
            self.pages.hold(page)
        return Row(found, len(found) * PAGE)

    def begin(self, row: Row, tokens: Sequence[int]) -> None:
        """Let a row go on from what others have read of its text."""
        whole = row.valid // PAGE
        found = self.pages.find(tokens, row.pages[:whole])
        if len(found) * PAGE > row.valid:
            for page in found:
                self.pages.hold(page)
            for page in row.pages:
                self.pages.drop(page, keep=self.keep)
            row.pages, row.valid = found, len(found) * PAGE

    def place(self, row: Row) -> int | None:
        """A number for the whole pages that a row has read; None where nobody could share them."""
        return self.pages.number(row.pages[: row.valid // PAGE])

    def release(self, row: Row, tokens: Sequence[int] = ()) -> None:
        """Give a row back; see `Runner.release`."""
        if not row.live:
            return
        if self.keep:
            self.learn(row, tokens)
        # From its end on, so that what is needed next is taken from there first.
        for page in reversed(row.pages):
            self.pages.drop(page, keep=self.keep)
        row.pages, row.valid, row.live = [], 0, False
        self.count -= 1

    def learn(self, row: Row, tokens: Sequence[int]) -> None:
        """Remember a row's text as far as it is valid."""
        self.pages.learn(row.pages, tokens[: row.valid])

    def fork(self, row: Row, count: int) -> list[Row]:
        """Rows that begin as another one; see `Runner.fork`."""
        free = self._most - self.count
        if count > free:
            raise CapacityError(
                f"{count} rows of {self._name} are needed and {free} are free; "
                "ask for fewer candidates or make the runner with more max_rows."
            )
        whole, rest = divmod(row.valid, PAGE)
        self._reserve(count * bool(rest))
        children: list[Row] = []
        sources: list[int] = []
        targets: list[int] = []
        for _ in range(count):
            pages = row.pages[:whole]
            for page in pages:
                self.pages.hold(page)
            if rest:
                own = self._take(0)
                sources.append(row.pages[whole])
                targets.append(own)
                pages.append(own)
            children.append(Row(pages, row.valid))
        self.count += count
        self._cache.copy(sources, targets)
        return children

    def prepare(self, rows: Sequence[Row], starts: Sequence[int], ends: Sequence[int]) -> None:
        """Give rows pages of their own for the tokens from `starts` up to `ends`.

        Raises:
            CapacityError: a row would be too long, or there are too few pages; then nothing has
                changed.
        """
        longest = max(ends)
        if longest > self._length:
            raise CapacityError(
                f"A sequence of {longest} tokens does not fit into a cache of {self._length}; "
                "raise max_length or shorten the prompt or max_new_tokens."
            )
        self._reserve(self.missing(rows, starts, ends))
        sources: list[int] = []
        targets: list[int] = []
        for row, start, end in zip(rows, starts, ends, strict=True):
            if start == end:
                continue
            first, last = start // PAGE, (end - 1) // PAGE
            for place in range(first, min(last + 1, len(row.pages))):
                page = row.pages[place]
                if not self.pages.own(page):
                    own = self._take(row.pages[place - 1] if place else 0)
                    if place * PAGE < start:  # what is before it stays
                        sources.append(page)
                        targets.append(own)
                    row.pages[place] = own
                    self.pages.drop(page)
            while len(row.pages) <= last:
                row.pages.append(self._take(row.pages[-1] if row.pages else 0))
        self._cache.copy(sources, targets)

    @property
    def free(self) -> int:
        """Pages that nobody holds, those among them that are yet to be made."""
        return self._cache.most - 1 - self.pages.held

    def missing(self, rows: Sequence[Row], starts: Sequence[int], ends: Sequence[int]) -> int:
        """Pages that rows need beside their own for the tokens from `starts` up to `ends`."""
        count = 0
        written: Counter[int] = Counter()
        for row, start, end in zip(rows, starts, ends, strict=True):
            if start < end:
                first, stop = start // PAGE, -(-end // PAGE)
                count += max(0, stop - len(row.pages))
                written.update(row.pages[first:stop])
        # The last one to write to a page that several hold has it for itself.
        return count + sum(min(n, self.pages.others(page)) for page, n in written.items())

    def fill(self) -> None:
        """Make all pages of the cache."""
        self._cache.grow(self._cache.most)
        self.pages.grow(self._cache.pages)

    def scrub(self, row: Row) -> None:
        """Empty a row; what its pages hold is read by nobody, and found by nobody."""
        for page in row.pages:
            self.pages.spoil(page)
            self.pages.drop(page)
        row.pages, row.valid = [], 0

    def _reserve(self, count: int) -> None:
        """Make sure that so many pages can be taken.

        Raises:
            CapacityError: there are fewer; then nothing has changed.
        """
        if count > self.free:
            raise CapacityError(
                f"The cache of {self._name} has room for {self.free * PAGE} more tokens, and "
                f"{count * PAGE} are needed; give it more memory, or ask for less at a time."
            )
        # Texts are kept for as long as there may be more pages.
        ready = self.pages.available - (self.pages.idle if self.keep else 0)
        if count > ready and self._cache.pages < self._cache.most:
            with torch.inference_mode():
                self._cache.grow(min(self.pages.count + count - ready, self._cache.most))
            self.pages.grow(self._cache.pages)

    def _take(self, after: int) -> int:
        page = self.pages.take(after)
        assert page is not None  # as many were reserved
        return page
