"""How many tokens to draft before the target looks.

A rule here sees a sequence's own history alone, and costs that are frozen when the rule is made, so
that a request's blocks never depend on its batch-mates or on the mood of the machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stet.errors import OptionError

LONGEST = 32
"""No block is longer: beyond this a draft is almost never kept whole."""


@dataclass(slots=True)
class History:
    """What one sequence's blocks have shown so far, older ones counting for less.

    Attributes:
        stood: drafted tokens that were kept (discounted).
        fell: blocks that broke at a drafted token (discounted).
    """

    stood: float = 0.0
    fell: float = 0.0

    def add(self, drafted: int, kept: int) -> None:
        """Take in one ruled block."""
        fade = 0.9
        self.stood = fade * self.stood + kept
        self.fell = fade * self.fell + (kept < drafted)


class DraftLength(Protocol):
    """A rule for the length of the next block."""

    @property
    def min_confidence(self) -> float:
        """Drafting ends after a token that the draft gave less than this probability."""
        ...

    @property
    def longest(self) -> int:
        """The longest block that the rule may ask for."""
        ...

    def next_block(self, history: History) -> int:
        """Tokens to draft now, at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Always the same number of tokens."""

    tokens: int = 5
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        """Refuse lengths that make no sense."""
        if not 1 <= self.tokens <= LONGEST:
            raise OptionError(f"The draft length is {self.tokens}; it must be 1 to {LONGEST}.")
        _check_confidence(self.min_confidence)

    @property
    def longest(self) -> int:
        """The longest block that the rule may ask for."""
        return self.tokens

    def next_block(self, history: History) -> int:
        """Tokens to draft now."""
        del history
        return self.tokens


@dataclass(frozen=True, slots=True)
class AdaptiveLength:
    """The length that promises most tokens per second, given how this sequence's blocks fared.

    Acceptance is estimated from the sequence's own blocks on top of a prior; the expected tokens of
    a block of K at acceptance a are (1 - a**(K + 1)) / (1 - a) (Leviathan et al., 2023), and its
    cost is one target pass plus K draft passes.

    Attributes:
        draft_cost: seconds of a draft pass, in target passes of one token.
        position_cost: what each further drafted token adds to the target's pass, likewise.
        longest: the longest block ever drafted.
        min_confidence: drafting ends after a token below this probability. The token itself stays
            in the block: dropping a token that was already drawn would bend the distribution.
        prior_acceptance: the estimate before anything was seen.
        prior_weight: how many blocks' worth of evidence the prior counts for.
    """

    draft_cost: float = 0.2
    position_cost: float = 0.02
    longest: int = 12
    min_confidence: float = 0.0
    prior_acceptance: float = 0.8
    prior_weight: float = 2.0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 1 <= self.longest <= LONGEST:
            raise OptionError(f"The longest draft is {self.longest}; it must be 1 to {LONGEST}.")
        if self.draft_cost < 0 or self.position_cost < 0:
            raise OptionError("Costs of drafting must not be negative.")
        if not 0 < self.prior_acceptance < 1:
            raise OptionError("The prior acceptance must lie between 0 and 1.")
        _check_confidence(self.min_confidence)

    def next_block(self, history: History) -> int:
        """Tokens to draft now."""
        prior_stood = self.prior_weight * self.prior_acceptance / (1 - self.prior_acceptance)
        stood = history.stood + prior_stood
        acceptance = stood / (stood + history.fell + self.prior_weight)
        return best_length(acceptance, self.draft_cost, self.position_cost, self.longest)


def expected_tokens(acceptance: float, length: int) -> float:
    """Expected tokens of a block, its next token included, if each stands independently."""
    if acceptance >= 1:
        return length + 1.0
    return (1 - acceptance ** (length + 1)) / (1 - acceptance)


def best_length(
    acceptance: float, draft_cost: float, position_cost: float, longest: int = LONGEST
) -> int:
    """The block length with most expected tokens per cost, at least 1.

    Args:
        acceptance: probability that a drafted token stands.
        draft_cost: a draft pass in target passes.
        position_cost: a further position of the target's pass in target passes.
        longest: lengths beyond this are not considered.
    """

    def rate(length: int) -> float:
        return expected_tokens(acceptance, length) / (1 + length * (draft_cost + position_cost))

    return max(range(1, longest + 1), key=rate)


def describe(rule: DraftLength) -> dict[str, Any]:
    """The rule by name with its numbers, for the trace."""
    return {"rule": type(rule).__name__, **asdict(rule)}  # type: ignore[call-overload]


def _check_confidence(value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(f"min_confidence is {value}; it must be at least 0 and below 1.")
