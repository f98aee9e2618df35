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
from stet.needs import Need, Watch
from stet.sampling import SamplingParams
from stet.sequence import Sequence as TokenSequence
from stet.steps import Delimiter


@dataclass(slots=True, eq=False)
class Candidate:
    """One candidate of a step.

    Attributes:
        sequence: a fork that ends with the candidate.
        text: the candidate.
        statistics: the writer's log-probs, entropies and margins of its tokens, where kept.
        hidden: [T, D] float32, the last hidden state from which each of its T tokens was drawn,
            where kept.
        attention: for each floor that the policy asked for (`Watch.floors`) the attention weights
            of the queries that drew its T tokens, [layers, T, S] float32 over the positions
            0 .. S - 1, S = len(sequence.tokens) - 1, averaged over heads, where kept. Row t is of
            the position just before token t.
        translated: the candidate in the target's own tokens, where its tokenizer is another one.
    """

    sequence: TokenSequence
    text: str
    statistics: Statistics | None = None
    hidden: Tensor | None = None
    attention: dict[float, Tensor] | None = None
    translated: list[int] | None = None

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

    def select(self, candidates: Sequence[Candidate]) -> int:
        """The best of the target's candidates."""
        ...

    def judge(self, step: Step) -> Generator[Operation, Any, Judgement]:
        """Rule on a step; may have the models do something first by yielding operations."""
        ...


def asks_target(policy: StepPolicy) -> bool:
    """Whether a policy may have the target read steps, which a remote one cannot.

    Such a policy has a property `asks_target` that says so.
    """
    return bool(getattr(policy, "asks_target", False))


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


def doubted(policy: StepPolicy) -> Callable[[Sequence[float]], bool] | None:
    """What tells that a candidate cannot stand any more, however it goes on.

    Such a policy has a property `doubt`: called with the draft's log-probabilities of a candidate's
    tokens so far. The rest of such a candidate is not written, and the target goes on from there.
    """
    doubt: Callable[[Sequence[float]], bool] | None = getattr(policy, "doubt", None)
    return doubt


def speculates(policy: StepPolicy) -> bool:
    """Whether the draft proposes blocks while the target rewrites a step.

    A policy that does without has an attribute `speculate` that says so.
    """
    return bool(getattr(policy, "speculate", True))
