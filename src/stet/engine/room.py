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
    """

    def __init__(self, runners: Mapping[Role, Runner]) -> None:
        self._runners = runners

    def admits(self, request: Request, others: Sequence[Request]) -> bool:
        """Whether a request can begin or go on beside others.

        They may hold less by now than they are about to: a prompt is read chunk by chunk.
        """
        every = [request, *others]
        return all(
            sum(max(0, _demand(each, runner.max_length) - _held(each, role)) for each in every)
            <= runner.pages_free
            for role, runner in self._runners.items()
        )

    def suffices(self, operations: Sequence[Draft | Score], role: Role) -> bool:
        """Whether there are pages for everything that these operations have a model read."""
        runner = self._runners[role]
        rows: list[Row] = []
        starts: list[int] = []
        ends: list[int] = []
        count = 0
        begun: set[int] = set()
        for operation in operations:
            sequence = operation.sequence
            end = len(sequence.tokens) + _growth(operation)
            row = sequence.rows.get(role)
            if row is not None:
                rows.append(row)
                starts.append(max(0, min(row.valid, len(sequence.tokens) - _again(operation))))
                ends.append(end)
                continue
            count += -(-end // PAGE)
            # What it shares with the sequence that it continues is read or held there.
            parent = sequence.parent
            while parent is not None:
                row = parent.rows.get(role)
                length = len(parent.tokens) if row is None else min(row.valid, len(parent.tokens))
                count -= length // PAGE
                if row is not None or id(parent) in begun:
                    break
                begun.add(id(parent))
                count += -(-length // PAGE)
                parent = parent.parent
        return count + runner.pages_missing(rows, starts, ends) <= runner.pages_free


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
        return -(-min(len(sequence.tokens) + PAGE, longest) // PAGE) - shared

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
