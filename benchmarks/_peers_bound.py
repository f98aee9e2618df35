"""What speculation could come to: from the times of bare passes and the models' agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stet.engine.costs import interpolate

LONGEST = 16


@dataclass(frozen=True)
class Passes:
    """Seconds of bare passes, by width.

    Attributes:
        target: of the target.
        draft: of the draft, of one token and of two.
    """

    target: Mapping[int, float]
    draft: Mapping[int, float]

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Passes:
        """Those of a measurement."""
        target, draft = (
            {int(width): seconds for width, seconds in record[role].items()}
            for role in ("target", "draft")
        )
        return cls(target, draft)

    def round(self, length: int) -> float:
        """Seconds of a round with a block of `length` tokens; 0: of the target alone.

        A block's first pass of the draft reads two tokens.
        """
        if length == 0:
            return self.target[1]
        drafting = self.draft[2] + (length - 1) * self.draft[1]
        return drafting + interpolate(self.target, length + 1)


def accepted(matches: Sequence[int], begin: int, length: int) -> int:
    """How many of a block's tokens stand: those before the first that the draft has wrong."""
    count = 0
    for match in matches[begin : begin + length]:
        if not match:
            break
        count += 1
    return count


def rounds_of(matches: Sequence[int], length: int) -> int:
    """Rounds that an answer takes with blocks of one length.

    Args:
        matches: for each token of the target's answer, whether the draft would have written it.
        length: of the blocks.
    """
    done, rounds = 0, 0
    while done < len(matches):
        done += accepted(matches, done, length) + 1
        rounds += 1
    return rounds


def answer_seconds(record: Mapping[str, Any], passes: Passes, length: int) -> float:
    """Seconds of an answer that consists of nothing but bare passes."""
    reading = record["prompt_seconds"]["target"]
    if length:
        reading += record["prompt_seconds"]["draft"]
    return float(reading) + rounds_of(record["matches"], length) * passes.round(length)


def best_length(records: Sequence[Mapping[str, Any]], passes: Passes) -> int:
    """The length of blocks with which all the answers together take least time."""
    return min(range(LONGEST + 1), key=lambda k: sum(answer_seconds(r, passes, k) for r in records))


def expected_speedup(rate: float, length: int, passes: Passes) -> float:
    """Speed over the target alone if each token is accepted with the same probability.

    Args:
        rate: the probability.
        length: of the blocks.
        passes: their times.
    """
    tokens = sum(rate**n for n in range(length + 1))
    return tokens * passes.target[1] / passes.round(length)
