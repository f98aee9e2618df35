"""The pages of a cache: who holds which, and which hold the beginnings of texts."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence

from stet.core.row import PAGE

Known = tuple[int, tuple[int, ...]]
"""The content of a page: the number of the content before it (0 for none), and its tokens."""


class Pages:
    """Pages by number, from 1 on; page 0 is nobody's, and takes what pads write.

    Several rows may hold a page, which none of them may write to then. A page may be *known* by its
    content: the tokens of its slots, and of all slots before them. A known page that nobody holds
    keeps its content until the page is needed.

    Args:
        count: pages, page 0 among them.
    """

    def __init__(self, count: int) -> None:
        self._holders = [0] * count
        self._held = 0
        self._free = list(range(1, count))
        # Whether a page is in that heap, where one stays that was taken as a neighbour.
        self._listed = [False, *[True] * (count - 1)]
        # What is known: the page and the number of each content, and the content of each page.
        self._known: dict[Known, tuple[int, int]] = {}
        self._content: dict[int, Known] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._numbers = 0

    @property
    def count(self) -> int:
        """Number of pages, page 0 among them."""
        return len(self._holders)

    @property
    def held(self) -> int:
        """Number of pages that somebody holds."""
        return self._held

    @property
    def available(self) -> int:
        """Number of pages that nobody holds."""
        return self.count - 1 - self._held

    @property
    def idle(self) -> int:
        """Number of pages that nobody holds, and that are known."""
        return len(self._idle)

    def others(self, page: int) -> int:
        """How many hold a page beside one of its holders."""
        return self._holders[page] - 1

    def grow(self, count: int) -> None:
        """Add pages, up to so many in all."""
        added = range(self.count, count)
        self._holders += [0] * len(added)
        self._listed += [False] * len(added)
        for page in added:
            self._put_back(page)

    def take(self, after: int = 0) -> int | None:
        """Take a page that nobody holds; None where there is none.

        Args:
            after: a page whose neighbour is to be preferred, since neighbours are read at once.
        """
        beside = after + 1
        page: int | None = None
        if 0 < beside < self.count and not self._holders[beside] and beside not in self._content:
            page = beside
        while page is None and self._free:
            found = heapq.heappop(self._free)
            self._listed[found] = False
            if not self._holders[found] and found not in self._content:
                page = found
        if page is None and self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        if page is not None:
            self._holders[page] = 1
            self._held += 1
        return page

    def hold(self, page: int) -> None:
        """Hold a page that others hold, too, or that is known."""
        self._held += not self._holders[page]
        self._holders[page] += 1
        self._idle.pop(page, None)

    def drop(self, page: int, *, keep: bool = True) -> None:
        """Hold a page no longer.

        Args:
            page: the page.
            keep: whether it stays known where nobody holds it.
        """
        self._holders[page] -= 1
        if self._holders[page]:
            return
        self._held -= 1
        if not keep:
            self._forget(page)
        if page in self._content:
            self._idle[page] = None
        else:
            self._put_back(page)

    def own(self, page: int) -> bool:
        """Let the only holder of a page write to it; False where others hold it, too."""
        if self._holders[page] > 1:
            return False
        self._forget(page)
        return True

    def spoil(self, page: int) -> None:
        """Let nobody find a page any more."""
        self._forget(page)

    def learn(self, pages: Sequence[int], tokens: Sequence[int]) -> None:
        """Remember what whole pages hold that somebody holds.

        Args:
            pages: of a text, from its beginning on.
            tokens: the text; what is beyond the last whole page is not remembered.
        """
        count = min(len(tokens) // PAGE, len(pages))
        first, number = self._deepest(pages, count)
        for place in range(first, count):
            content = number, tuple(tokens[place * PAGE : (place + 1) * PAGE])
            page, found = pages[place], self._known.get(content)
            if found is None:
                if page in self._content:  # as the continuation of what was forgotten
                    self._forget(page)
                self._numbers += 1
                found = self._known[content] = page, self._numbers
                self._content[page] = content
            number = found[1]

    def find(self, tokens: Sequence[int], pages: Sequence[int] = ()) -> list[int]:
        """The known pages that a text begins with; nobody holds them for that.

        Args:
            tokens: the text.
            pages: whole pages that somebody holds, and that it begins with.
        """
        first, number = self._deepest(pages, len(pages))
        found = list(pages[:first])
        for place in range(first, len(tokens) // PAGE):
            known = self._known.get((number, tuple(tokens[place * PAGE : (place + 1) * PAGE])))
            if known is None:
                break
            page, number = known
            found.append(page)
        return found

    def number(self, pages: Sequence[int]) -> int | None:
        """The number of what whole pages hold that somebody holds; None where it is not known."""
        place, number = self._deepest(pages, len(pages))
        return number if place == len(pages) else None

    def _deepest(self, pages: Sequence[int], count: int) -> tuple[int, int]:
        """Of the first `count` pages how many are known, up to the last such, and its number."""
        for place in range(count, 0, -1):
            content = self._content.get(pages[place - 1])
            if content is not None:
                return place, self._known[content][1]
        return 0, 0

    def forget_idle(self) -> None:
        """Forget what pages hold that nobody holds."""
        for page in self._idle:
            self._forget(page)
            self._put_back(page)
        self._idle.clear()

    def _put_back(self, page: int) -> None:
        if not self._listed[page]:
            self._listed[page] = True
            heapq.heappush(self._free, page)

    def _forget(self, page: int) -> None:
        content = self._content.pop(page, None)
        if content is not None:
            del self._known[content]
