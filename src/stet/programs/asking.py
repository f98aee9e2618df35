"""Asking the target about the candidates of a step, on behalf of a policy."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from stet.core.acceptance import Acceptance
from stet.core.block import Reading
from stet.core.operations import Operation
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate
from stet.programs.target_side import TargetSide


class Reader:
    """Lets the target read candidates, and keeps the last decision about their tokens.

    Args:
        sequence: the answer.
        candidates: the candidates that the policy is shown.
        side: the target.
    """

    def __init__(
        self, sequence: TokenSequence, candidates: list[Candidate], side: TargetSide
    ) -> None:
        self._sequence = sequence
        self._candidates = candidates
        self._side = side
        self._last: Candidate | None = None
        self._acceptance: Acceptance | None = None
        self._reading: Reading | None = None

    def read(self, place: int) -> Generator[Operation, Any, Reading]:
        """Have the target read a candidate in one pass."""
        self.take(None)
        candidate = self._candidates[place]
        acceptance = yield from self._side.read(self._sequence, candidate)
        assert acceptance.reading is not None
        self._last, self._acceptance = candidate, acceptance
        self._reading = acceptance.reading
        return acceptance.reading

    def ask(
        self, question: str, answers: Sequence[str]
    ) -> Generator[Operation, Any, list[list[float]]]:
        """Put a question to the target behind each candidate."""
        return (yield from self._side.ask(self._sequence, self._candidates, question, answers))

    def reading_of(self, candidate: Candidate) -> Generator[Operation, Any, list[float]]:
        """The target's log-probabilities of a candidate, which it reads if it has not yet."""
        if not self.has_read(candidate) or self._reading is None:
            self._reading = yield from self.read(self._candidates.index(candidate))
        return self._reading.logprobs

    def has_read(self, candidate: Candidate) -> bool:
        """Whether the target's cache holds a candidate."""
        return candidate is self._last

    def take(self, candidate: Candidate | None) -> Acceptance | None:
        """Take the decision about a candidate that the target has read, to be committed.

        A decision that is not taken is counted for its pass alone.
        """
        acceptance, self._acceptance = self._acceptance, None
        if acceptance is None or candidate is self._last:
            return acceptance
        self._side.charge_reading(self._sequence, acceptance)
        return None
