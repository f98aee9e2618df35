"""Expected speed-ups of block lengths, computed from measured costs and acceptance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stet.core.trace import RequestTrace
from stet.engine.costs import interpolate

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Block lengths whose speed-up is computed."""


@dataclass(frozen=True, slots=True)
class RequestCosts:
    """Costs of a request: seconds of one sequence's share of a pass.

    Attributes:
        target: seconds of the target's pass, by the number of positions in it.
        draft: seconds of the draft's pass for one token.
        overhead: seconds of a round beside both models' passes.
        reading: seconds of prefill with both models.
        plain_overhead: seconds of a round beside the target's pass, when it decodes alone.
        plain_reading: seconds of prefill with the target alone.
    """

    target: Mapping[int, float]
    draft: float
    overhead: float = 0.0
    reading: float = 0.0
    plain_overhead: float = 0.0
    plain_reading: float = 0.0

    def target_pass(self, positions: int) -> float:
        """Seconds of the target's pass over so many positions, also between measured numbers."""
        return interpolate(self.target, positions)

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
    """How often drafted tokens were accepted.

    Attributes:
        stood: by position in the block, the tokens accepted there.
        fell: by position, the blocks whose first rejected token was there. Blocks that ended for
            another reason (short ones, and those in which the answer ended) say nothing about the
            positions after.
        drafting: the share of rounds in which there was anything to draft; prompt lookup often
            finds nothing.
    """

    stood: tuple[int, ...]
    fell: tuple[int, ...]
    drafting: float = 1.0

    @classmethod
    def of(cls, traces: Iterable[RequestTrace], longest: int) -> Acceptance:
        """Count the acceptance in traces whose blocks had at most `longest` drafted tokens."""
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
        """The probability that a drafted token is accepted, given that those before it were."""
        seen = sum(self.stood) + sum(self.fell)
        return sum(self.stood) / seen if seen else 0.0

    @property
    def accepted_share(self) -> tuple[float, ...]:
        """By position: the probability that a block is accepted up to and including it."""
        shares: list[float] = []
        share = 1.0
        for stood, fell in zip(self.stood, self.fell, strict=True):
            share *= stood / (stood + fell) if stood + fell else self.rate
            shares.append(share)
        return tuple(shares)

    def tokens_per_pass(self, draft_length: int) -> float:
        """Expected tokens of a round: the accepted ones and the recovered or bonus token.

        Beyond the measured positions each further token is accepted with the overall rate. (With
        one rate a for all positions this is (1 - a^(K+1)) / (1 - a); Leviathan et al., arXiv
        2211.17192.)
        """
        shares = list(self.accepted_share[:draft_length])
        while len(shares) < draft_length:
            shares.append((shares[-1] if shares else 1.0) * self.rate)
        return 1 + self.drafting * sum(shares)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The expected speed of one block length.

    Attributes:
        draft_length: drafted tokens per block, K.
        tokens_per_pass: expected tokens per pass of the target.
        tokens_per_second: expected tokens per second, for one sequence of the measured batch.
        speedup: expected speed-up of a whole answer over the target alone, prefill included.
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
    """Compute the expected speed of block lengths from measured costs and acceptance.

    Args:
        costs: costs of passes and rounds.
        acceptance: acceptance of drafted tokens.
        answer: tokens of an answer; the fewer, the larger the share of prefill by two models.
        lengths: the block lengths.
    """
    rows: list[Forecast] = []
    plain = costs.plain_token + costs.plain_reading / answer
    for length in lengths:
        tokens = acceptance.tokens_per_pass(length)
        seconds = costs.round(length) / tokens + costs.reading / answer
        rows.append(Forecast(length, tokens, 1 / seconds, plain / seconds))
    return rows
