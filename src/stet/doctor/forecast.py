"""What speculation should gain: block lengths reckoned from measured costs and acceptance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stet.core.trace import RequestTrace

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Block lengths that are reckoned."""


@dataclass(frozen=True, slots=True)
class RequestCosts:
    """Seconds of one sequence's share of a pass.

    Attributes:
        target: the target's pass by the number of positions in it.
        draft: the draft's pass for one token.
        overhead: what a round takes beside both models.
        reading: reading a prompt with both models.
        plain_overhead: what a round of plain target decoding takes beside the model.
        plain_reading: reading a prompt with the target alone.
    """

    target: Mapping[int, float]
    draft: float
    overhead: float = 0.0
    reading: float = 0.0
    plain_overhead: float = 0.0
    plain_reading: float = 0.0

    def target_pass(self, positions: int) -> float:
        """The target's pass over so many positions, between and beyond the measured ones."""
        known = sorted(self.target)
        if positions in self.target or len(known) == 1:
            return self.target[positions if positions in self.target else known[0]]
        upper = next((n for n in known if n > positions), known[-1])
        lower = known[max(known.index(upper) - 1, 0)]
        slope = (self.target[upper] - self.target[lower]) / (upper - lower)
        # Noise must not make a longer pass look cheaper the further one looks.
        return self.target[lower] + max(slope, 0.0) * (positions - lower)

    @property
    def plain_token(self) -> float:
        """Seconds of a token when the target decodes alone."""
        return self.target_pass(1) + self.plain_overhead

    def round(self, draft_length: int) -> float:
        """Seconds of a round that drafts so many tokens and verifies them in one pass."""
        passes = self.target_pass(draft_length + 1) + draft_length * self.draft
        return passes + self.overhead


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often drafted tokens stood.

    Attributes:
        stood: by position in the block, the tokens that stood there.
        fell: by position, the blocks that broke there. Blocks that ended for another reason (short
            ones, and those in which the answer ended) say nothing about the positions after.
        drafting: the share of rounds in which there was anything to draft; prompt lookup often
            finds nothing.
    """

    stood: tuple[int, ...]
    fell: tuple[int, ...]
    drafting: float = 1.0

    @classmethod
    def of(cls, traces: Iterable[RequestTrace], longest: int) -> Acceptance:
        """As recorded in requests whose blocks had at most `longest` drafted tokens."""
        stood, fell = [0] * longest, [0] * longest
        drafts = rounds = 0
        for trace in traces:
            drafts += trace.counters.drafts
            rounds += trace.counters.target_passes
            for block in trace.blocks:
                room = len(trace.tokens) - block.position
                accepted = min(block.accepted, room)
                for position in range(accepted):
                    stood[position] += 1
                if accepted < min(len(block.drafted), room):
                    fell[accepted] += 1
        return cls(tuple(stood), tuple(fell), drafts / max(rounds, 1))

    @property
    def rate(self) -> float:
        """The probability that a drafted token stands, given that those before it did."""
        seen = sum(self.stood) + sum(self.fell)
        return sum(self.stood) / seen if seen else 0.0

    @property
    def accepted_share(self) -> tuple[float, ...]:
        """By position: the probability that a block is kept up to and including it."""
        shares: list[float] = []
        share = 1.0
        for stood, fell in zip(self.stood, self.fell, strict=True):
            share *= stood / (stood + fell) if stood + fell else self.rate
            shares.append(share)
        return tuple(shares)

    def tokens_per_pass(self, draft_length: int) -> float:
        """Expected tokens of a round: the kept ones and the one that the target adds.

        Beyond the measured positions each further token stands with the rate so far. (With one rate
        a for all positions this is (1 - a^(K+1)) / (1 - a); Leviathan et al., arXiv 2211.17192.)
        """
        shares = list(self.accepted_share[:draft_length])
        while len(shares) < draft_length:
            shares.append((shares[-1] if shares else 1.0) * self.rate)
        return 1 + self.drafting * sum(shares)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one block length promises.

    Attributes:
        draft_length: drafted tokens per block, K.
        tokens_per_pass: expected tokens per pass of the target.
        tokens_per_second: expected, for one sequence of the measured batch.
        speedup: of a whole answer over the target alone, reading the prompt included.
    """

    draft_length: int
    tokens_per_pass: float
    tokens_per_second: float
    speedup: float


def forecast(
    costs: RequestCosts,
    acceptance: Acceptance,
    answer: float = math.inf,
    lengths: Sequence[int] = LENGTHS,
) -> list[Forecast]:
    """Reckon block lengths from measured costs and acceptance.

    Args:
        costs: of passes and rounds.
        acceptance: of drafted tokens.
        answer: tokens of an answer; the fewer, the more reading the prompt twice weighs.
        lengths: the block lengths.
    """
    rows: list[Forecast] = []
    plain = costs.plain_token + costs.plain_reading / answer
    for length in lengths:
        tokens = acceptance.tokens_per_pass(length)
        seconds = costs.round(length) / tokens + costs.reading / answer
        rows.append(Forecast(length, tokens, 1 / seconds, plain / seconds))
    return rows
