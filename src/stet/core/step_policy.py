"""Step policies: rules on whole steps of reasoning, with their inputs and decisions.

Where a token policy decides about blocks of tokens by their distributions, a step policy reads the
draft's candidates for the next step, chooses one, and decides whether it is accepted, or rejected
and rewritten by the target.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stet.core.block import STATISTICS, Reading, Statistics
from stet.core.errors import StetError
from stet.core.needs import AttentionCapture, Need, undeclared
from stet.core.operations import Operation
from stet.core.policy import Policy
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.steps import LOOP, Delimiter


class Candidate:
    """One candidate of a step.

    Statistics, hidden states and attention can be read if the policy declares them and the draft
    wrote the candidate; for the target's own candidates nothing is kept.

    Args:
        sequence: see the attributes.
        text: see the attributes.
        statistics: see the property; None where not kept.
        hidden: see the property; None where not kept.
        attention: attention weights by floor, see the method; None where not kept.

    Attributes:
        sequence: a fork that ends with the candidate.
        text: the candidate.
        translated: the candidate in the target's own tokens, where its tokenizer is another one.
        cut: whether it breaks off before its step ends: because it cannot be accepted any more
            (`StepPolicy.doubt`), or because the context ends. Such a candidate is never accepted,
            whatever the policy decides.
    """

    __slots__ = ("_attention", "_hidden", "_statistics", "cut", "sequence", "text", "translated")

    def __init__(
        self,
        sequence: TokenSequence,
        text: str,
        statistics: Statistics | None = None,
        hidden: Tensor | None = None,
        attention: dict[float, Tensor] | None = None,
    ) -> None:
        self.sequence = sequence
        self.text = text
        self._statistics = statistics
        self._hidden = hidden
        self._attention = attention
        self.translated: list[int] | None = None
        self.cut = False

    def has(self, need: Need) -> bool:
        """Whether `statistics` (`Need.DRAFT_LOGPROBS`) or `hidden` (`DRAFT_HIDDEN`) were kept."""
        kept = {Need.DRAFT_LOGPROBS: self._statistics, Need.DRAFT_HIDDEN: self._hidden}
        return kept.get(need) is not None

    @property
    def statistics(self) -> Statistics:
        """The draft's log-probs, entropies and margins of its tokens (`Need.DRAFT_LOGPROBS`).

        Raises:
            StetError: they were not asked for.
        """
        if self._statistics is None:
            raise undeclared("the draft's log-probabilities of a step", Need.DRAFT_LOGPROBS)
        return self._statistics

    @property
    def hidden(self) -> Tensor:
        """[T, D] float32: the last hidden state from which each of its T tokens was drawn.

        Raises:
            StetError: they were not asked for (`Need.DRAFT_HIDDEN`).
        """
        if self._hidden is None:
            raise undeclared("the draft's hidden states of a step", Need.DRAFT_HIDDEN)
        return self._hidden

    def attention(self, floor: float) -> Tensor:
        """[layers, T, S] float32: attention weights of the queries that drew its T tokens.

        The weights are over the positions 0 .. S - 1, S = len(sequence.tokens) - 1, averaged over
        heads. Row t belongs to the query at the position just before token t.

        Args:
            floor: one of the floors that the policy asked for (`AttentionCapture.floors`).

        Raises:
            StetError: attention with this floor was not asked for.
        """
        found = None if self._attention is None else self._attention.get(floor)
        if found is None:
            raise StetError(
                f"This policy reads the draft's attention with a floor of {floor:g} and does not "
                "declare it; have its `capture` return an AttentionCapture with this floor."
            )
        return found

    @property
    def tokens(self) -> list[int]:
        """The candidate's tokens."""
        return self.sequence.answer

    @property
    def target_tokens(self) -> list[int]:
        """The candidate as the target reads it, behind `Step.sequence`."""
        return self.tokens if self.translated is None else self.translated


@dataclass(frozen=True, slots=True)
class Step:
    """A step to decide about, as a step policy is shown it.

    Attributes:
        sequence: the prompt and the steps so far.
        index: how many steps there are so far.
        candidates: the draft's candidates for the next step.
        read: lets the target read a candidate, given by its place, in one pass. That pass is not
            lost where the step is rewritten: the rewrite goes on from it.
        ask: puts a question to the target behind each candidate, given with its possible answers,
            each of which is one token there. Gives for each candidate the target's raw
            log-probability of each answer, in nats; -inf where it is only known to be small.
    """

    sequence: TokenSequence
    index: int
    candidates: Sequence[Candidate]
    read: Callable[[int], Generator[Operation, Any, Reading]]
    ask: Callable[[str, Sequence[str]], Generator[Operation, Any, list[list[float]]]]


@dataclass(frozen=True, slots=True)
class ReadStep:
    """What both models say of a step's tokens, wherever it is from.

    Attributes:
        target: the target's raw log-probability of each token, in nats.
        draft: the draft's.
    """

    target: Sequence[float]
    draft: Sequence[float]


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two steps stands.

    Attributes:
        draft: whether it is the draft's.
        signals: raw signals that it was decided by, by name, for the record.
    """

    draft: bool
    signals: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class StepDecision:
    """A step policy's decision about a step.

    Attributes:
        chosen: the candidate that was chosen, as an index.
        accepted: whether it is accepted; otherwise the target rewrites the step.
        reason: why it was accepted or rejected, in the policy's words.
        signals: raw signals of the chosen candidate, by name.
        normalised: signals of the chosen candidate as the score takes them, from 0 (worst) to 1.
        score: the number that was compared with the threshold; None where there is none.
        threshold: the lowest score of an accepted step; None where there is none.
        details: raw signals of every candidate, where the policy looked at them.
    """

    chosen: int
    accepted: bool
    reason: str
    signals: dict[str, float] = field(default_factory=dict[str, float])
    normalised: dict[str, float] = field(default_factory=dict[str, float])
    score: float | None = None
    threshold: float | None = None
    details: Sequence[dict[str, float]] = ()


class StepPolicy(Policy):
    """A rule on steps: whether the draft's next step is accepted, or the target rewrites it."""

    @property
    def delimiter(self) -> Delimiter:
        """The delimiter that ends a step."""
        return "\n"

    @property
    def step_tokens(self) -> int:
        """The most tokens of a step."""
        return 128

    @property
    def candidates(self) -> int:
        """How many candidates of a step the draft writes."""
        return 1

    @property
    def target_candidates(self) -> int:
        """How many candidates the target writes where it rewrites a step."""
        return 1

    @property
    def shadow(self) -> bool:
        """Whether decisions are only recorded, and the target writes every step."""
        return False

    @property
    def loop_after(self) -> int:
        """How many repetitions of the draft's step end the answer as a loop; 0 for never."""
        return LOOP

    @property
    def speculate(self) -> bool:
        """Whether the draft proposes blocks while the target rewrites a step."""
        return True

    @property
    def inner(self) -> Any:
        """The token policy that verifies blocks of a rewritten step, or its name."""
        return "exact"

    @property
    def compares(self) -> bool:
        """Whether a rejected step is compared with the one that the target writes (`compare`)."""
        return False

    @property
    def reads_target(self) -> bool:
        """Whether it may have the target read steps, which not every remote target can."""
        return False

    @property
    def asks_target(self) -> bool:
        """Whether it puts questions to the target (`Step.ask`)."""
        return False

    @property
    def capture(self) -> AttentionCapture | None:
        """Which of the draft's attention weights to keep; None: none."""
        return None

    @property
    def statistics(self) -> frozenset[str]:
        """Which of `stet.core.block.STATISTICS` it reads of candidates; others are not computed."""
        return STATISTICS

    def appends(self, tokenizer: Any) -> int:
        """The most tokens that it puts behind a text to ask the target about it.

        Room for them is kept free from the beginning.

        Args:
            tokenizer: the target's tokenizer.
        """
        del tokenizer
        return 0

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """How candidates are sampled, given what the request asks for."""
        return base

    def doubt(self, sampling: SamplingParams) -> Callable[[Sequence[float]], bool] | None:
        """A function that tells when a candidate cannot be accepted any more; None: there is none.

        It is called with the draft's log-probabilities of a candidate's tokens so far. Where it
        returns true, the rest of the candidate is not written, and the target goes on from there.

        Args:
            sampling: how candidates are sampled.
        """
        del sampling
        return None

    def select(self, candidates: Sequence[Candidate]) -> int | Generator[Operation, Any, int]:
        """Choose one of the target's candidates; may yield operations first, as `judge` does."""
        del candidates
        return 0

    def compare(self, draft: ReadStep, target: ReadStep) -> Preference:
        """Decide whether the draft's rejected step stands in the place of the target's after all.

        Asked only of a policy that `compares`, where the two differ and both are whole.

        Args:
            draft: the draft's step.
            target: the target's.
        """
        del draft, target
        return Preference(draft=False)

    @abstractmethod
    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Decide about a step; may have the models do something first by yielding operations."""


def select_candidate(
    policy: StepPolicy, candidates: Sequence[Candidate]
) -> Generator[Operation, Any, int]:
    """Have a policy choose one of several candidates; it is not asked about a single one."""
    if len(candidates) == 1:
        return 0
    found = policy.select(candidates)
    return found if isinstance(found, int) else (yield from found)
