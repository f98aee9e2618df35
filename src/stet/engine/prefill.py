"""Chunked prefill of caches: one rule for prompts, rewinds, late requests and candidates.

A row's `valid` says how many cached tokens agree with its sequence. Tokens that are missing beyond
that are read in chunks, in separate passes, so that a long prompt delays the others by a chunk.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from stet.core.errors import CapacityError
from stet.core.row import PAGE, Row
from stet.core.sequence import Role, TokenSequence
from stet.core.tensors import upload
from stet.engine.failures import isolate, raise_device_error
from stet.engine.runner import Runner

CHUNK = 512
"""Tokens of one sequence that a round reads, by default."""

SHARED_CHUNKS = 2
"""A batch of short sequences may share the room of so many chunks."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a round of prefill.

    Attributes:
        states: for each sequence, whether it is ready, or its error.
        progress: whether any cache advanced.
    """

    states: list[bool | Exception]
    progress: bool


@dataclass(slots=True, eq=False)
class _Missing:
    """Tokens [row.valid, end) of a sequence, to be read into a row."""

    sequence: TokenSequence
    row: Row
    end: int

    def size(self, width: int) -> int:
        """How many of them are read in a pass of some width."""
        return min(self.end - self.row.valid, width)


class Prefill:
    """Prefills rows, a bounded number of tokens a round.

    Args:
        runners: the runners by role.
        chunk: tokens of one sequence that a round reads; a batch of short ones may share the
            room of two chunks.
    """

    def __init__(self, runners: dict[Role, Runner], chunk: int) -> None:
        self._runners = runners
        self._chunk = chunk

    def run(self, sequences: Sequence[TokenSequence], role: Role, keep: int) -> Report:
        """Read the missing tokens of each sequence, except its last `keep` tokens.

        A candidate whose parent is not in the cache yet waits for the parent, once for all of its
        siblings; then it starts from a copy of the parent's row.
        """
        runner = self._runners[role]
        states: list[bool | Exception] = [False] * len(sequences)
        missing: dict[int, _Missing] = {}
        for place, sequence in enumerate(sequences):
            try:
                state = self._look(runner, sequence, role, keep)
            except Exception as error:
                raise_device_error(error)
                states[place] = error
                continue
            if isinstance(state, _Missing):
                # Siblings share their parent's gap.
                missing.setdefault(id(state.row), state)
            else:
                states[place] = state
        if not missing:
            return Report(states, False)
        failed = self._read(runner, list(missing.values()))
        for place, sequence in enumerate(sequences):
            if states[place] is False:
                states[place] = self._look_again(runner, sequence, role, keep, failed)
        return Report(states, True)

    def _look(
        self, runner: Runner, sequence: TokenSequence, role: Role, keep: int
    ) -> bool | _Missing:
        """Look up a sequence: True if ready, False if no row is free, else what to read first."""
        row = sequence.rows.get(role)
        if row is None:
            parent = sequence.parent
            if parent is not None:
                ready = self._look(runner, parent, role, keep)
                if ready is not True:
                    return ready
                row = sequence.borrow(role) or self._fork(runner, parent, sequence, role)
            else:
                row = self._allocate(runner, sequence)
            if row is None:
                return False
            sequence.rows[role] = row
            self._count(sequence, role, row.valid if parent is None else 0)
        end = max(len(sequence.tokens) - keep, 0)
        if row.valid < end and sequence.parent is None:
            before = row.valid
            runner.begin(row, sequence.tokens)
            self._count(sequence, role, row.valid - before)
        return True if row.valid >= end else _Missing(sequence, row, end)

    def _count(self, sequence: TokenSequence, role: Role, found: int) -> None:
        """Count tokens that were found in a cache; an answer's own, read again, are none."""
        if role == "target" and sequence.parent is None and not sequence.emitted:
            sequence.reused += found

    def _fork(
        self, runner: Runner, parent: TokenSequence, child: TokenSequence, role: Role
    ) -> Row | None:
        try:
            (row,) = runner.fork(parent.rows[role], 1)
        except CapacityError:
            return None
        row.valid = min(row.valid, child.prompt_length)
        return row

    def _allocate(self, runner: Runner, sequence: TokenSequence) -> Row | None:
        try:
            return runner.allocate(sequence.tokens)
        except CapacityError:
            return None

    def _look_again(
        self,
        runner: Runner,
        sequence: TokenSequence,
        role: Role,
        keep: int,
        failed: dict[int, Exception],
    ) -> bool | Exception:
        holder: TokenSequence | None = sequence
        while holder is not None:
            if id(holder) in failed:
                return failed[id(holder)]
            holder = holder.parent
        try:
            return self._look(runner, sequence, role, keep) is True
        except Exception as error:
            raise_device_error(error)
            return error

    def _read(self, runner: Runner, missing: list[_Missing]) -> dict[int, Exception]:
        """Read one chunk of each, within the round's budget; return failures by sequence id."""
        failed: dict[int, Exception] = {}
        width = min(self._chunk, runner.exact_width or self._chunk)
        missing = _different(runner, missing)
        for item in missing:
            item.end = min(item.end, item.row.valid + self._chunk)
        budget = SHARED_CHUNKS * self._chunk
        while missing and budget > 0:
            missing.sort(key=lambda item: item.size(width))
            batch = self._batch(missing, width, budget)
            budget -= len(batch) * batch[-1].size(width)
            del missing[: len(batch)]
            failed |= self._forward(runner, batch, width)
            missing += [i for i in batch if i.size(width) and id(i.sequence) not in failed]
        return failed

    def _batch(self, missing: list[_Missing], width: int, budget: int) -> list[_Missing]:
        """Take the shortest ones, while padding wastes less than half and the budget lasts."""
        count = 1
        shortest = missing[0].size(width)
        for item in missing[1:]:
            size = item.size(width)
            if size > 2 * shortest or (count + 1) * size > budget:
                break
            count += 1
        return missing[:count]

    def _forward(self, runner: Runner, batch: list[_Missing], width: int) -> dict[int, Exception]:
        results = isolate(batch, lambda part: self._feed(runner, part, width))
        return {
            id(item.sequence): result
            for item, result in zip(batch, results, strict=True)
            if isinstance(result, Exception)
        }

    def _feed(self, runner: Runner, batch: list[_Missing], most: int) -> list[None]:
        """Run one pass over what is next of each, at most so many tokens."""
        sizes = [item.size(most) for item in batch]
        width = max(sizes)
        starts = [item.row.valid for item in batch]
        rows: list[list[int]] = []
        for item, start, size in zip(batch, starts, sizes, strict=True):
            rows.append(item.sequence.tokens[start : start + size] + [0] * (width - size))
        tokens = upload(rows, runner.device)
        runner.forward([i.row for i in batch], tokens, starts, sizes, logits="none")
        for item in batch:
            runner.learn(item.row, item.sequence.tokens)
        return [None] * len(batch)


def _different(runner: Runner, missing: list[_Missing]) -> list[_Missing]:
    """Of those that go on alike only the first: the others go on from what it has read."""
    if len(missing) == 1:
        return missing
    found: dict[Hashable, _Missing] = {}
    for item in missing:
        start = item.row.valid // PAGE * PAGE
        place = runner.place(item.row)
        # A candidate begins as its parent does, and nowhere else.
        alone = item.sequence.parent is not None
        if alone or place is None or item.end < start + PAGE:  # no page of it will be shared
            found[id(item)] = item
        else:
            page = tuple(item.sequence.tokens[start : start + PAGE])
            found.setdefault((place, item.row.valid - start, page), item)
    return list(found.values())
