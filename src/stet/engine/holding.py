"""What a runner's cache holds: rows, the pages that they share, and the texts that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stet.core.row import Row, pages_for
from stet.engine.kv_cache import KVCache
from stet.engine.rows import Rows

if TYPE_CHECKING:
    from stet.core.model import LoadedModel


class Holding:
    """A runner that holds rows: the part of `stet.engine.runner.Runner` about its cache.

    Attributes:
        model: the model.
        cache: its keys and values.
        max_rows: the most rows that can be allocated.
        max_length: the most tokens a row can hold.
    """

    model: LoadedModel
    cache: KVCache
    max_rows: int
    max_length: int
    _rows: Rows

    @property
    def rows_in_use(self) -> int:
        """Number of live rows."""
        return self._rows.count

    def allocate(self, tokens: Sequence[int] = ()) -> Row:
        """Allocate a row, empty but for what is in the cache already of its text.

        Args:
            tokens: the text.

        Raises:
            CapacityError: all rows are taken.
        """
        return self._rows.allocate(tokens)

    def begin(self, row: Row, tokens: Sequence[int]) -> None:
        """Let a row go on from what others have read of its text meanwhile.

        Args:
            row: the row.
            tokens: its text.
        """
        self._rows.begin(row, tokens)

    def learn(self, row: Row, tokens: Sequence[int]) -> None:
        """Let others begin as a row does.

        Args:
            row: the row.
            tokens: the text that it holds as far as it is valid.
        """
        self._rows.learn(row, tokens)

    def place(self, row: Row) -> int | None:
        """A number for what a row has read, the same for all that can share it; None: nobody can.

        It is of whole pages.
        """
        return self._rows.place(row)

    @property
    def pages(self) -> int:
        """Pages of the cache, those that are yet to be made among them."""
        return self.cache.most - 1

    @property
    def is_scarce(self) -> bool:
        """Whether the pages are too few for all rows at their full length."""
        return self.pages < pages_for(self.max_rows, self.max_length) - 1

    @property
    def pages_free(self) -> int:
        """Pages of the cache that nobody holds."""
        return self._rows.free

    def pages_missing(self, rows: Sequence[Row], starts: Sequence[int], ends: Sequence[int]) -> int:
        """Pages that rows need beside their own for the tokens from `starts` up to `ends`."""
        return self._rows.missing(rows, starts, ends)

    def fill_cache(self) -> None:
        """Make all pages now, after which the cache stays where it is."""
        self._rows.fill()

    def release(self, row: Row, tokens: Sequence[int] = ()) -> None:
        """Give a row back, unless it already was.

        Args:
            row: the row.
            tokens: the text that it holds as far as it is valid, which may be kept.
        """
        self._rows.release(row, tokens)

    def keep_texts(self, keep: bool) -> None:
        """Keep the texts of rows that are given back for others that begin so, or forget them."""
        self._rows.keep = keep
        if not keep:
            self._rows.pages.forget_idle()

    @property
    def exact_width(self) -> int | None:
        """The widest pass whose states are the bits of any narrower one; None: there is none.

        In wider ones torch attends. Packed models read texts in none that is wider: what a request
        finds in the cache is then to the last bit what it would have read itself.
        """
        return (self.model.native or None) if self.model.packed else None

    def fork(self, row: Row, count: int) -> list[Row]:
        """Allocate rows that start with the valid tokens of `row`, whose pages they share.

        Raises:
            CapacityError: fewer than `count` rows are free; then none is allocated.
        """
        return self._rows.fork(row, count)

    def scrub(self, row: Row) -> None:
        """Empty a row, for one that produced a value that is not finite."""
        self._rows.scrub(row)
