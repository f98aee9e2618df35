"""What a step policy is: a rule on whole steps of reasoning, what it is shown and what it returns.

Where a token policy rules on blocks of tokens by their distributions, a step policy reads the
draft's candidates for the next step, picks one, and decides whether it stands or the target writes
the step instead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from stet.block import STATISTICS, Reading, Statistics
from stet.engine.operations import Operation
from stet.errors import StetError
from stet.needs import Need, Watch, undeclared
from stet.sampling import SamplingParams
from stet.sequence import Sequence as TokenSequence
from stet.steps import LOOP, Delimiter, LoopGuard


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
            floor: one of those that the policy asked for (`Watch.floors`).

        Raises:
            StetError: it was not asked for.
        """
        found = None if self._attention is None else self._attention.get(floor)
        if found is None:
            raise StetError(
                f"This policy reads the draft's attention with a floor of {floor:g} and does not "
                "declare it; have its `watch` return a Watch with this floor."
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
class Judgement:
    """A ruling on a step.

    Attributes:
        chosen: which candidate was judged.
        stands: whether it stands; otherwise the target writes the step.
        reason: why, in the policy's words.
        signals: raw signals of the chosen candidate, by name.
        normalised: the same as the score takes them, from 0 (worst) to 1.
        score: what was compared with the threshold, if anything was.
        threshold: from which on a step stands.
        details: raw signals of every candidate, where the policy looked at them.
    """

    chosen: int
    stands: bool
    reason: str
    signals: dict[str, float] = field(default_factory=dict[str, float])
    normalised: dict[str, float] = field(default_factory=dict[str, float])
    score: float | None = None
    threshold: float | None = None
    details: Sequence[dict[str, float]] = ()


@runtime_checkable
class StepPolicy(Protocol):
    """A rule on steps: a frozen dataclass whose fields are its parameters.

    Attributes:
        name: what users call it; unique in the registry.
        lossless: always False: the target's distribution is not promised.
        delimiter: what ends a step.
        step_tokens: the most tokens of a step.
        candidates: how many candidates the draft writes.
        target_candidates: how many the target writes where it rewrites a step.
        shadow: record what would be decided and let the target write every step.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]

    @property
    def delimiter(self) -> Delimiter: ...  # noqa: D102 - see the class
    @property
    def step_tokens(self) -> int: ...  # noqa: D102
    @property
    def candidates(self) -> int: ...  # noqa: D102
    @property
    def target_candidates(self) -> int: ...  # noqa: D102
    @property
    def shadow(self) -> bool: ...  # noqa: D102
    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the draft's writing."""
        ...

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """How candidates are sampled, given what the request asks for."""
        ...

    def select(self, candidates: Sequence[Candidate]) -> int | Generator[Operation, Any, int]:
        """The best of the target's candidates; may yield operations first, as `judge` does."""
        ...

    def judge(self, step: Step) -> Generator[Operation, Any, Judgement]:
        """Rule on a step; may have the models do something first by yielding operations."""
        ...


def selected(policy: StepPolicy, candidates: Sequence[Candidate]) -> Generator[Operation, Any, int]:
    """Which of several candidates a policy selects; of a single one it is not asked."""
    if len(candidates) == 1:
        return 0
    found = policy.select(candidates)
    return found if isinstance(found, int) else (yield from found)


def asks_target(policy: StepPolicy) -> bool:
    """Whether a policy may have the target read steps, which a remote one cannot.

    Such a policy has a property `asks_target` that says so.
    """
    return bool(getattr(policy, "asks_target", False))


def appended(policy: StepPolicy, tokenizer: Any) -> int:
    """The most tokens that a policy puts behind a text to ask the target about it.

    Such a policy has a method `appends` that says so. That room is kept free from the beginning.

    Args:
        policy: the policy.
        tokenizer: the target's.
    """
    appends: Callable[[Any], int] | None = getattr(policy, "appends", None)
    return 0 if appends is None else appends(tokenizer)


def watched(policy: StepPolicy) -> Watch | None:
    """Which attention of the draft a policy wants kept.

    Such a policy has a property `watch` that says so.
    """
    watch: Watch | None = getattr(policy, "watch", None)
    return watch


def read_statistics(policy: StepPolicy) -> frozenset[str]:
    """Which statistics of a candidate a policy reads; all, unless it says so.

    Such a policy has a property `statistics`, names of `stet.block.STATISTICS`: the others are not
    computed.
    """
    names: frozenset[str] = getattr(policy, "statistics", STATISTICS)
    return names


def doubted(
    policy: StepPolicy, sampling: SamplingParams
) -> Callable[[Sequence[float]], bool] | None:
    """What tells that a candidate cannot stand any more, however it goes on.

    Such a policy has a method `doubt`, called with how candidates are sampled. What it returns is
    called with the draft's log-probabilities of a candidate's tokens so far. The rest of such a
    candidate is not written, and the target goes on from there.
    """
    doubt: Callable[..., Any] | None = getattr(policy, "doubt", None)
    return None if doubt is None else doubt(sampling)


def guard_of(policy: StepPolicy) -> LoopGuard:
    """What ends an answer in which the draft goes in circles.

    A policy that wants to say after how many repetitions has an attribute `loop_after`.
    """
    return LoopGuard(getattr(policy, "loop_after", LOOP))


def speculates(policy: StepPolicy) -> bool:
    """Whether the draft proposes blocks while the target rewrites a step.

    A policy that does without has an attribute `speculate` that says so.
    """
    return bool(getattr(policy, "speculate", True))
