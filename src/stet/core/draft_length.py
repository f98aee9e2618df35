"""How many tokens to draft before the target verifies them.

A rule here sees a sequence's own history alone, and costs that are frozen when the rule is made, so
that a request's blocks never depend on its batch-mates or on the load of the machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stet.core.errors import OptionError

LONGEST = 32
"""No block is longer: beyond this a block is almost never accepted whole."""

SHARED = 15
"""No block is longer by default: in a batch, the others wait for the longest."""


@dataclass(slots=True)
class History:
    """Counts of what was accepted of one sequence's blocks, older blocks counting for less.

    Attributes:
        stood: drafted tokens that were accepted (discounted).
        fell: blocks of which a drafted token was rejected (discounted).
        accepted_mismatches: drafted tokens that were accepted against the target's (discounted).
        blocks: verified blocks (discounted, but over more of them).
        drafted: their drafted tokens (likewise).
        gained: the tokens that came of them, next tokens included (likewise).
        rest: rounds that are still to be decoded without drafting.
        pause: rounds of the next rest; 0 before the first.
        trial: blocks that are drafted, after a rest, before they are judged.
    """

    stood: float = 0.0
    fell: float = 0.0
    accepted_mismatches: float = 0.0
    blocks: float = 0.0
    drafted: float = 0.0
    gained: float = 0.0
    rest: int = 0
    pause: int = 0
    trial: int = 0

    def add(self, drafted: int, accepted: int, accepted_mismatches: int = 0) -> None:
        """Add one verified block."""
        fade = 0.9
        self.stood = fade * self.stood + accepted
        self.fell = fade * self.fell + (accepted < drafted)
        self.accepted_mismatches = fade * self.accepted_mismatches + accepted_mismatches
        self.fade(0.95)
        self.blocks += 1
        self.drafted += drafted
        self.gained += accepted + 1

    def fade(self, factor: float) -> None:
        """Let what drafting cost and brought so far count for less."""
        self.blocks *= factor
        self.drafted *= factor
        self.gained *= factor

    @property
    def leniency(self) -> float:
        """The estimated probability that a mismatch is accepted.

        0 under a policy that never accepts one. Where it is high, a token that the draft gives low
        probability need not end the block: a lenient policy is worth longer blocks.
        """
        return self.accepted_mismatches / (self.accepted_mismatches + self.fell + 1.0)


class DraftLength(Protocol):
    """A rule for the length of the next block."""

    @property
    def longest(self) -> int:
        """The longest block that the rule may ask for."""
        ...

    def begin(self, prompt: int, most: int) -> History:
        """The history of a new sequence.

        Args:
            prompt: tokens of its prompt.
            most: the most tokens of its answer.
        """
        ...

    def next_block(self, history: History) -> int:
        """Tokens to draft now; 0 to let the target write a token alone."""
        ...

    def update(
        self, history: History, drafted: int, accepted: int, accepted_mismatches: int
    ) -> None:
        """Add what became of a round to the history, which is empty where nothing was drafted."""
        ...

    def floor(self, history: History) -> float:
        """The confidence below which drafting ends; 0 for never.

        The confidence is the probability that the whole block is accepted, as the draft estimates
        it. It is looked at where that costs no wait for the device. The token that took the block
        below the floor stays in it: dropping a token that was already drawn would bias the
        distribution of the accepted tokens.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedLength:
    """A rule that drafts the same number of tokens each time.

    Attributes:
        tokens: the length of a block.
        min_confidence: drafting ends early once the confidence in the block is below this.
    """

    tokens: int = 5
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        """Refuse lengths out of range."""
        if not 1 <= self.tokens <= LONGEST:
            raise OptionError(f"The draft length is {self.tokens}; it must be 1 to {LONGEST}.")
        _check_confidence(self.min_confidence)

    @property
    def longest(self) -> int:
        """The longest block that the rule may ask for."""
        return self.tokens

    def begin(self, prompt: int, most: int) -> History:
        """An empty history."""
        del prompt, most
        return History()

    def next_block(self, history: History) -> int:
        """Tokens to draft now."""
        del history
        return self.tokens

    def update(
        self, history: History, drafted: int, accepted: int, accepted_mismatches: int
    ) -> None:
        """Add a block to the history."""
        if drafted:
            history.add(drafted, accepted, accepted_mismatches)

    def floor(self, history: History) -> float:
        """The confidence below which drafting ends: `min_confidence`."""
        del history
        return self.min_confidence


@dataclass(frozen=True, slots=True)
class AdaptiveLength:
    """A rule that drafts the length with most expected tokens per second, by a sequence's history.

    Acceptance is estimated from the sequence's own blocks on top of a prior; the expected tokens of
    a block of K at acceptance a are (1 - a**(K + 1)) / (1 - a) (Leviathan et al., 2023), and its
    cost is one target pass plus K draft passes.

    By confidence, the draft's own probabilities end a block: a further token is worth its cost
    while the probability that the block is accepted up to there, as the draft estimates it, exceeds
    the cost of the token times the tokens that a unit of cost brings on average. That fits greedy
    decoding, where a confident draft is mostly right; a sampled token of low probability is no
    worse than others, so there the history decides alone.

    Where drafting loses time it rests: while the tokens that blocks brought stay behind what they
    cost, in target passes, the target writes alone, for longer and longer, and between two rests a
    few blocks show whether that has changed. Without it a pair that hardly agrees, or whose draft
    is dear, would be slower than its target.

    Attributes:
        draft_cost: seconds of a draft pass, in target passes of one token.
        position_cost: what each further drafted token adds to the target's pass, in the same unit.
        longest: the longest block that is drafted.
        by_confidence: let the draft's confidence end a block.
        min_confidence: never go on below this confidence in the block.
        prior_acceptance: the estimate before any block was verified.
        prior_weight: how many blocks' worth of evidence the prior counts for.
        may_rest: whether the target may write alone; for lossless policies, whose text the draft
            has no part in.
        fits: whether blocks may be shortened where several requests share a round; see
            `stet.engine.lengths`.
        read_cost: what the draft's reading of a prompt's token costs, in target passes. With it
            the target also writes alone where so short an answer would not earn that back; 0: the
            reading is not counted.
    """

    draft_cost: float = 0.2
    position_cost: float = 0.02
    longest: int = SHARED
    by_confidence: bool = False
    min_confidence: float = 0.0
    prior_acceptance: float = 0.8
    prior_weight: float = 2.0
    may_rest: bool = False
    fits: bool = True
    read_cost: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 1 <= self.longest <= LONGEST:
            raise OptionError(f"The longest draft is {self.longest}; it must be 1 to {LONGEST}.")
        if min(self.draft_cost, self.position_cost, self.read_cost) < 0:
            raise OptionError("Costs of drafting must not be negative.")
        if not 0 < self.prior_acceptance < 1:
            raise OptionError("The prior acceptance must lie between 0 and 1.")
        _check_confidence(self.min_confidence)

    def begin(self, prompt: int, most: int) -> History:
        """An empty history, or one that rests to the end of an answer too short to draft for."""
        reading = prompt * self.read_cost
        if not self.may_rest or reading < _COUNTED:
            return History()
        length = best_length(
            self.prior_acceptance, self.draft_cost, self.position_cost, self.longest
        )
        cost = 1 + length * (self.draft_cost + self.position_cost)
        saved = most * (1 - cost / expected_tokens(self.prior_acceptance, length))
        return History(rest=most if saved < reading else 0)

    def acceptance(self, history: History) -> float:
        """The estimated probability that a drafted token is accepted."""
        prior_stood = self.prior_weight * self.prior_acceptance / (1 - self.prior_acceptance)
        stood = history.stood + prior_stood
        return stood / (stood + history.fell + self.prior_weight)

    def next_block(self, history: History) -> int:
        """Tokens to draft now."""
        if history.rest:
            return 0
        # The confidence of a draft of which nothing was accepted so far says little.
        unlucky = self.may_rest and history.fell and not history.stood
        if self.by_confidence and not unlucky:
            return self.longest
        acceptance = self.acceptance(history)
        return best_length(acceptance, self.draft_cost, self.position_cost, self.longest)

    def update(
        self, history: History, drafted: int, accepted: int, accepted_mismatches: int
    ) -> None:
        """Add a round to the history, and begin a rest where drafting has lost time."""
        if not drafted:
            history.rest = max(history.rest - 1, 0)
            return
        history.add(drafted, accepted, accepted_mismatches)
        if not self.may_rest:
            return
        history.trial = max(history.trial - 1, 0)
        if self.gain(history) >= _WORTH_IT:
            history.pause = 0
        elif not history.trial and not self._is_open(history):
            history.rest = history.pause = self._rest(history)
            history.trial = _TRIAL
            history.fade(0.5)

    def _is_open(self, history: History) -> bool:
        """Whether a few blocks more are to show, before the first rest, if drafting may pay.

        After a rest the draft has to read all that was written meanwhile, which costs more than a
        short block; so they are tried at once.
        """
        return not history.stood and history.fell < _OPEN and self._is_believed(history)

    def _is_believed(self, history: History) -> bool:
        """Whether drafting may pay although nothing was accepted so far.

        A block of one token pays where it is accepted more often than it costs.
        """
        chance = max(1 - self.draft_cost - self.position_cost, 0.0)
        return history.fell < _FEW or chance**history.fell >= _BELIEVED

    def _rest(self, history: History) -> int:
        """Rounds of the next rest."""
        if not (history.stood or self._is_believed(history)):
            return _HOPELESS_REST
        return min(max(2 * history.pause, _FIRST_REST), _LONGEST_REST)

    def gain(self, history: History) -> float:
        """Tokens that drafting brought, over those that the target writes alone in that time."""
        cost = self.draft_cost + self.position_cost
        prior = 1 + 2 * cost
        spent = history.blocks + history.drafted * cost
        return (history.gained + _PRIOR_GAIN * prior) / (spent + prior)

    def floor(self, history: History) -> float:
        """The confidence below which one more token no longer pays."""
        if not self.by_confidence:
            return self.min_confidence
        acceptance = self.acceptance(history)
        cost = self.draft_cost + self.position_cost
        length = best_length(acceptance, self.draft_cost, self.position_cost, self.longest)
        rate = expected_tokens(acceptance, length) / (1 + length * cost)
        return max(self.min_confidence, min(cost * rate / acceptance, 0.9))


# Chosen such that a sequence costs little more than the better of the target alone and the best
# fixed length, whatever its acceptance: 3 to 5 % in a simulation of answers of 200 tokens.
_WORTH_IT = 0.98
_PRIOR_GAIN = 1.15
_FIRST_REST = 8
_LONGEST_REST = 128
_HOPELESS_REST = 512
_BELIEVED = 0.3
_FEW = 2.5  # three blocks, as older ones count for less
_OPEN = 4.0  # five blocks
_COUNTED = 4.0
_TRIAL = 2


def expected_tokens(acceptance: float, length: int) -> float:
    """Expected tokens of a block, its next token included, if each is accepted independently."""
    if acceptance >= 1:
        return length + 1.0
    return (1 - acceptance ** (length + 1)) / (1 - acceptance)


def best_length(
    acceptance: float, draft_cost: float, position_cost: float, longest: int = LONGEST
) -> int:
    """The block length with most expected tokens per cost, at least 1.

    Args:
        acceptance: probability that a drafted token is accepted.
        draft_cost: cost of a draft pass, in target passes.
        position_cost: cost of a further position of the target's pass, in target passes.
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
