"""Room in the caches: whether a request may begin, and whether a round's passes can be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stet.core.operations import Draft, Score
from stet.core.row import PAGE, Row
from stet.core.sequence import Role, TokenSequence
from stet.engine.drafting import OVERLAP
from stet.engine.request import Request
from stet.engine.runner import Runner


class Room:
    """The pages of the caches of a pair, as requests share them.

    Args:
        runners: the runners of the loaded models, by role.
        spare: pages of each cache that requests leave free.
    """

    def __init__(self, runners: Mapping[Role, Runner], spare: int = 0) -> None:
        self._runners = runners
        self._spare = spare

    def admits(self, request: Request, others: Sequence[Request]) -> bool:
        """Whether a request can begin or go on beside others.

        They may hold less by now than they are about to: a prompt is read chunk by chunk.
        """
        every = [request, *others]
        return all(
            sum(max(0, _demand(each, runner.max_length) - _held(each, role)) for each in every)
            <= runner.pages_free - self._spare
            for role, runner in self._runners.items()
        )

    def suffices(self, operations: Sequence[Draft | Score], role: Role) -> bool:
        """Whether there are pages for everything that these operations have a model read."""
        runner = self._runners[role]
        wanted = _Wanted(role)
        for operation in operations:
            sequence = operation.sequence
            first = max(0, len(sequence.tokens) - _again(operation))
            wanted.add(sequence, first, len(sequence.tokens) + _growth(operation))
        return wanted.count(runner) <= runner.pages_free - self._spare


class _Wanted:
    """Pages that sequences need in a cache beside those that they hold.

    Args:
        role: whose cache it is.
    """

    def __init__(self, role: Role) -> None:
        self._role: Role = role
        self._new = 0
        self._written: dict[int, tuple[Row, int, int]] = {}
        self._seen: set[int] = set()

    def add(self, sequence: TokenSequence, first: int, end: int) -> None:
        """Count what a sequence needs to be read up to `end`, from `first` on at the latest."""
        row, parent = sequence.rows.get(self._role), sequence.parent
        if row is not None:
            self._write(row, first, end)
        elif parent is None:
            self._new += -(-end // PAGE)
        else:
            length = len(parent.tokens)
            if id(parent) not in self._seen:  # it is read once for all that continue it
                self._seen.add(id(parent))
                self.add(parent, length, length)
            place = parent.rows.get(self._role)
            if not sequence.only_child:
                shared = min(first, sequence.prompt_length, length) // PAGE
                self._new += -(-end // PAGE) - shared
            elif place is not None:
                self._write(place, first, end)
            else:
                self._new += max(0, -(-end // PAGE) + -length // PAGE)

    def count(self, runner: Runner) -> int:
        """The pages."""
        written = self._written.values()
        rows = [row for row, _, _ in written]
        starts = [start for _, start, _ in written]
        return self._new + runner.pages_missing(rows, starts, [end for _, _, end in written])

    def _write(self, row: Row, first: int, end: int) -> None:
        _, start, stop = self._written.get(id(row), (row, row.valid, 0))
        self._written[id(row)] = row, min(start, first), max(stop, end)


def _again(operation: Draft | Score) -> int:
    """The most of a sequence's last tokens that are read again."""
    return max(OVERLAP, operation.read + 1) if isinstance(operation, Draft) else 1


def _growth(operation: Draft | Score) -> int:
    """The most tokens that an operation adds behind its sequence."""
    if isinstance(operation, Draft):
        return operation.count
    return operation.block.length


def _demand(request: Request, longest: int) -> int:
    """Pages of a cache that a request needs to go on for a while.

    Args:
        request: the request.
        longest: the most tokens of a row.
    """

    def pages(sequence: TokenSequence, parent: TokenSequence | None) -> int:
        shared = 0 if parent is None else len(parent.tokens) // PAGE
        length = max(len(sequence.tokens) + PAGE, request.length)
        return -(-min(length, longest) // PAGE) - shared

    whole = request.sequence
    family = list(whole.family())
    # Candidates that are not there yet will share all but their last page.
    return sum(pages(each, each.parent) for each in family) + pages(whole, whole) * max(
        0, request.rows - len(family)
    )


def _held(request: Request, role: Role) -> int:
    """Pages that a request holds, those that it shares among them."""
    pages: set[int] = set()
    for sequence in request.sequence.family():
        if (row := sequence.rows.get(role)) is not None:
            pages.update(row.pages)
    return len(pages)
