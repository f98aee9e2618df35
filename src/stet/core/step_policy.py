"""What a step policy is: a rule on whole steps of reasoning, what it is shown and what it returns.

Where a token policy rules on blocks of tokens by their distributions, a step policy reads the
draft's candidates for the next step, picks one, and decides whether it stands or the target writes
the step instead.
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

    What was kept of its writing can be read if the policy declares it, and the draft wrote it: of
    what the target writes nothing is kept.

    Args:
        sequence: see the attributes.
        text: likewise.
        statistics: likewise; None where not kept.
        hidden: likewise.
        attention: likewise.

    Attributes:
        sequence: a fork that ends with the candidate.
        text: the candidate.
        translated: the candidate in the target's own tokens, where its tokenizer is another one.
        cut: whether it breaks off before its step ends: because it is beyond hope (`doubted`), or
            because the context ends. Such a candidate never stands, whatever a policy says of it.
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
        """[T, D] float32, the last hidden state from which each of its T tokens was drawn.

        Raises:
            StetError: they were not asked for (`Need.DRAFT_HIDDEN`).
        """
        if self._hidden is None:
            raise undeclared("the draft's hidden states of a step", Need.DRAFT_HIDDEN)
        return self._hidden

    def attention(self, floor: float) -> Tensor:
        """[layers, T, S] float32, attention weights of the queries that drew its T tokens.

        Over the positions 0 .. S - 1, S = len(sequence.tokens) - 1, averaged over heads. Row t is
        of the position just before token t.

        Args:
            floor: one of those that the policy asked for (`AttentionCapture.floors`).

        Raises:
            StetError: it was not asked for.
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
    """What a step policy is shown.

    Attributes:
        sequence: the prompt and the steps that stand.
        index: how many steps stand.
        candidates: the draft's candidates for the next one.
        read: lets the target read a candidate, given by its place, in one pass. That pass is not
            lost where the step is rewritten: the rewrite goes on from it.
    """

    sequence: TokenSequence
    index: int
    candidates: Sequence[Candidate]
    read: Callable[[int], Generator[Operation, Any, Reading]]


@dataclass(frozen=True, slots=True)
class StepDecision:
    """A ruling on a step.

    Attributes:
        chosen: which candidate was judged.
        accepted: whether it stands; otherwise the target writes the step.
        reason: why, in the policy's words.
        signals: raw signals of the chosen candidate, by name.
        normalised: the same as the score takes them, from 0 (worst) to 1.
        score: what was compared with the threshold, if anything was.
        threshold: from which on a step stands.
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
    """A rule on steps: whether the draft's next step stands, or the target writes one instead."""

    @property
    def delimiter(self) -> Delimiter:
        """What ends a step."""
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
        """How many the target writes where it rewrites a step."""
        return 1

    @property
    def shadow(self) -> bool:
        """Whether to record what would be decided, and let the target write every step."""
        return False

    @property
    def loop_after(self) -> int:
        """After how many repetitions of the draft's step an answer goes in circles; 0 for never."""
        return LOOP

    @property
    def speculate(self) -> bool:
        """Whether the draft proposes blocks while the target rewrites a step."""
        return True

    @property
    def inner(self) -> Any:
        """What rules on those blocks: a token policy, or the name of one."""
        return "exact"

    @property
    def asks_target(self) -> bool:
        """Whether it may have the target read steps, which a remote one cannot."""
        return False

    @property
    def capture(self) -> AttentionCapture | None:
        """Which attention of the draft is to be kept; None: none."""
        return None

    @property
    def statistics(self) -> frozenset[str]:
        """Which of `stet.core.block.STATISTICS` it reads of candidates; others are not made."""
        return STATISTICS

    def appends(self, tokenizer: Any) -> int:
        """The most tokens that it puts behind a text to ask the target about it.

        Room for them is kept free from the beginning.

        Args:
            tokenizer: the target's.
        """
        del tokenizer
        return 0

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """How candidates are sampled, given what the request asks for."""
        return base

    def doubt(self, sampling: SamplingParams) -> Callable[[Sequence[float]], bool] | None:
        """What tells that a candidate cannot stand any more, however it goes on; None: nothing.

        It is called with the draft's log-probabilities of a candidate's tokens so far. The rest of
        such a candidate is not written, and the target goes on from there.

        Args:
            sampling: how candidates are sampled.
        """
        del sampling
        return None

    def select(self, candidates: Sequence[Candidate]) -> int | Generator[Operation, Any, int]:
        """The best of the target's candidates; may yield operations first, as `judge` does."""
        del candidates
        return 0

    @abstractmethod
    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Rule on a step; may have the models do something first by yielding operations."""


def selected(policy: StepPolicy, candidates: Sequence[Candidate]) -> Generator[Operation, Any, int]:
    """Which of several candidates a policy selects; of a single one it is not asked."""
    if len(candidates) == 1:
        return 0
    found = policy.select(candidates)
    return found if isinstance(found, int) else (yield from found)
