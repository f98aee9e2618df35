"""SpecGuard: steps are verified by signals of the models themselves, without a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from stet.bundled import SPECGUARD
from stet.core.errors import OptionError
from stet.core.needs import AttentionCapture, Need
from stet.core.operations import Await, Operation
from stet.core.sampling import SamplingParams
from stet.core.step_policy import (
    Candidate,
    Preference,
    ReadStep,
    Step,
    StepDecision,
    StepPolicy,
    select_candidate,
)
from stet.core.steps import LOOP, Delimiter
from stet.policies.artefact import read_record
from stet.policies.checks import check_drafting
from stet.policies.reference import Fitted, with_fitted
from stet.policies.registry import register
from stet.policies.step_score import StepScore
from stet.rewards.batching import Batcher
from stet.signals import agreeing, centrality
from stet.signals.confidence import min_logprob

Selector = Literal["vote", "medoid", "first"]
SELECTORS: tuple[Selector, ...] = get_args(Selector)
Scorer = Literal["draft", "target"]
SCORERS: tuple[Scorer, ...] = get_args(Scorer)

KEPT, REWRITTEN = "step accepted", "step rewritten"
TARGET_LOGPROB, TARGET_MARGIN = "target_min_logprob", "target_min_margin"
"""The signals that are added where the target reads a step."""

PREFERENCE = "preference"
"""The signal that is added where a rejected step was compared with the target's."""

CONFIRMED, REFUSED = "step confirmed by the target", "step refused by the target"


@register
@dataclass(frozen=True)
class SpecGuard(StepPolicy):
    """The draft writes candidates of a step; the most consistent one is verified by its signals.

    A weighted mean of signals, each normalised to 0 .. 1, is compared with a threshold: at or above
    it the draft's step is accepted, below it the target rewrites the step. With `lower`, a step
    between the two thresholds is read by the target in one pass, and decided by the target's
    log-probabilities.

    Source: Purohit, Narayanam and Pal, "From Tokens to Steps", arXiv 2604.15244; `paper` has its
    constants. Our own: the choice of signals, ranges from a calibration, the vote, and `lower`.

    Attributes:
        candidates: number of candidates of a step that the draft writes.
        temperature: sampling temperature of the candidates; 0 for the most probable text.
        top_p: nucleus sampling of the candidates.
        delimiter: text that ends a step, several of them, or "sentence".
        step_tokens: the most tokens of a step.
        signals: names of the signals in the score (`stet.signals.SIGNALS`), and "head".
        weights: weight of each signal; equal if empty.
        ranges: for each signal the raw values that count as 0 and as 1, from a calibration; if
            empty, probabilities are used as they are.
        threshold: the score from which on a step is accepted, 0 to 1.
        lower: below this score the target rewrites a step without reading it; None: the target
            reads no steps.
        target_threshold: a step that the target reads is accepted if each of its tokens has at
            least this many times the probability of the best other token there.
        selector: how one of several candidates is selected: "vote" over equal texts, "medoid" of
            their embeddings, or "first".
        encoder: a function from the candidates' texts to embeddings [k, D], for the medoid; None:
            the mean of the draft's last hidden states is used.
        scorer: "draft" decides by the signals; with "target" the target reads every step, and
            `target_threshold` alone decides.
        loop_after: repetitions of one accepted step, or of two or three in turn, after which an
            answer ends with the finish reason "loop"; 0 for never.
        target_candidates: number of candidates of a step that the target writes.
        speculate: let the draft propose blocks while the target rewrites a step.
        inner: the token policy that verifies those blocks, by name or as an object; with one that
            is not lossless, tokens of the draft are accepted in what the target rewrites.
        overrule: a rejected step stands after all where the mean log-probability that both models
            give its tokens is at least so many nats above that of the step which the target writes
            in its place; None: the target's step stands unseen.
        shadow: decide and record, but let the target write every step.
        whole: also finish candidates that cannot reach the threshold any more.
        head: folder of the trained signal "head" (`stet.rewards.RewardHead`), from a calibration.
        pair: fingerprint of the pair that a calibration fitted this to; other pairs are refused.
        fitted: what is known of the policy as a calibration fitted it, which drift is measured
            from; no parameter.
    """

    candidates: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    delimiter: Delimiter = "\n"
    step_tokens: int = 128
    signals: tuple[str, ...] = ("min_logprob",)
    weights: tuple[float, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    threshold: float = 0.7
    lower: float | None = None
    target_threshold: float = 0.3
    selector: Selector = "vote"
    encoder: Callable[[Sequence[str]], Any] | None = None
    scorer: Scorer = "draft"
    target_candidates: int = 1
    speculate: bool = True
    inner: Any = "exact"
    overrule: float | None = None
    shadow: bool = False
    loop_after: int = LOOP
    whole: bool = False
    head: str | None = None
    pair: str | None = None
    fitted: Fitted | None = field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "specguard"
    lossless: ClassVar[bool] = False
    presets: ClassVar[tuple[str, ...]] = ("paper", "greedy", "bundled", "overruling")

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        for name in ("signals", "weights", "ranges", "delimiter"):
            object.__setattr__(self, name, _to_tuples(getattr(self, name)))
        object.__setattr__(self, "signals", _to_names(self.signals))
        check_drafting(self)
        for name, known in (("selector", SELECTORS), ("scorer", SCORERS)):
            if getattr(self, name) not in known:
                listed = ", ".join(known)
                raise OptionError(f"{name} is {getattr(self, name)!r}; choose from {listed}.")
        if not self.signals and self.scorer == "draft":
            raise OptionError("signals is empty; name at least one.")
        if (trained_for := self._scoring.pair) is not None:
            if self.pair not in (None, trained_for):
                raise OptionError(f"The signal in {self.head} was trained for another pair.")
            object.__setattr__(self, "pair", trained_for)
        for name in ("threshold", "lower", "target_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise OptionError(f"{name} is {value}; it must be between 0 and 1.")
        if self.overrule is not None and not math.isfinite(self.overrule):
            raise OptionError(f"overrule is {self.overrule}; it must be a finite number.")
        if self.lower is not None and self.lower > self.threshold:
            raise OptionError(f"lower is {self.lower}, above the threshold of {self.threshold}.")

    # Constructors

    @classmethod
    def paper(cls, **changes: Any) -> SpecGuard:
        """The published constants; `changes` override single parameters.

        The paper does not state the range over which it normalises its signals; here probabilities
        and attention shares are used as they are. Its steps end at a blank line.
        """
        published: dict[str, Any] = {
            "candidates": 16,
            "target_candidates": 16,
            "temperature": 0.7,
            "top_p": 0.8,
            "delimiter": "\n\n",
            "selector": "medoid",
            "signals": ("min_logprob", "grounding"),
            "weights": (0.3, 0.7),
            "threshold": 0.7,
        }
        return cls(**(published | changes))

    @classmethod
    def overruling(cls, **changes: Any) -> SpecGuard:
        """Nothing stands unseen: both models write each step, and both decide whose it is.

        The draft's stands where the two together clearly prefer it; no signal has to be fitted.
        """
        return cls(**({"threshold": 1.0, "overrule": 0.4} | changes))

    @classmethod
    def greedy(cls, **changes: Any) -> SpecGuard:
        """The paper's greedy variant: one candidate of each model, at temperature 0."""
        single = {"candidates": 1, "target_candidates": 1, "temperature": 0.0, "top_p": 1.0}
        return cls.paper(**(single | changes))

    @classmethod
    def bundled(cls, **changes: Any) -> SpecGuard:
        """The policy that `stet calibrate` fitted to the bundled pair; other pairs are refused."""
        return replace(cls.load(SPECGUARD), **changes)

    @classmethod
    def load(cls, path: str | Path) -> SpecGuard:
        """Load the policy that a calibration wrote.

        Raises:
            OptionError: the file cannot be read, or holds another policy.
        """
        name, values, record = read_record(path)
        if name != cls.name:
            raise OptionError(f"{path} holds policy {name!r}, not {cls.name!r}.")
        unknown = sorted(values.keys() - {f.name for f in fields(cls) if f.compare})
        if unknown:
            raise OptionError(f"{path} has a parameter {unknown[0]!r}, which {cls.name!r} lacks.")
        return with_fitted(cls(**values), record, str(path))

    # What the program asks

    @cached_property
    def _scoring(self) -> StepScore:
        return StepScore(self.signals, self.weights, self.ranges, self.head)

    @cached_property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the draft's passes."""
        needs = self._scoring.needs
        if self.compares:
            needs |= {Need.DRAFT_LOGPROBS}
        if self.candidates > 1 and self.selector != "first":
            needs |= {Need.DRAFT_LOGPROBS}
            if self.selector == "medoid" and self.encoder is None:
                needs |= {Need.DRAFT_HIDDEN}
        return needs

    @property
    def statistics(self) -> frozenset[str]:
        """Which statistics of candidates are read: by the signals, and to select one of several."""
        names = self._scoring.reads
        selects = self.candidates > 1 and self.selector != "first"
        return names | {"logprobs"} if selects or self.compares else names

    @property
    def compares(self) -> bool:
        """Whether a rejected step is compared with the one that the target writes."""
        return self.overrule is not None

    def compare(self, draft: ReadStep, target: ReadStep) -> Preference:
        """Whether both models together give the draft's step more, token by token."""
        assert self.overrule is not None
        preference = _mean(draft) - _mean(target)
        return Preference(preference >= self.overrule, {PREFERENCE: preference})

    @cached_property
    def capture(self) -> AttentionCapture | None:
        """Which attention of the draft the engine must capture."""
        return self._scoring.capture

    @property
    def reads_target(self) -> bool:
        """Whether the target is asked to read steps."""
        return self.scorer == "target" or self.lower is not None or self.compares

    def doubt(self, sampling: SamplingParams) -> Callable[[Sequence[float]], bool] | None:
        """A test whether a candidate can no longer be accepted; None where it is always finished.

        Args:
            sampling: how candidates are sampled.
        """
        judged_by_draft = self.scorer == "draft" and self.lower is None
        alone = self.candidates == 1 and self.temperature == 0
        if self.shadow or self.whole or self.compares or not (judged_by_draft and alone):
            return None
        best = self._scoring.best(sampling)
        return None if best is None else lambda logprobs: best(logprobs) < self.threshold

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """How candidates are sampled: as the request asks, but for this policy's own parameters."""
        return replace(base, temperature=self.temperature, top_p=self.top_p)

    def select(self, candidates: Sequence[Candidate]) -> int | Generator[Operation, Any, int]:
        """Select the most consistent candidate; among equals the most confident, then the first."""
        if len(candidates) == 1 or self.selector == "first":
            return 0
        if self.selector == "medoid" and self.encoder is not None:
            return self._select_by_encoder(candidates)
        medoid = self.selector == "medoid" and all(c.has(Need.DRAFT_HIDDEN) for c in candidates)
        states = torch.stack([c.hidden.mean(0) for c in candidates]) if medoid else None
        return self._select_central(candidates, states)

    def _select_by_encoder(self, candidates: Sequence[Candidate]) -> Generator[Operation, Any, int]:
        """Select the medoid of embeddings by the user's encoder, which is awaited."""
        (found,) = yield Await(self._encoding.ask([[c.text for c in candidates]]))
        embeddings = torch.as_tensor(found)
        if embeddings.dim() != 2 or embeddings.shape[0] != len(candidates):
            raise OptionError(
                f"The encoder returned a tensor of shape {list(embeddings.shape)} for "
                f"{len(candidates)} texts; it must be [{len(candidates)}, D]."
            )
        return self._select_central(candidates, embeddings)

    def _select_central(self, candidates: Sequence[Candidate], embeddings: Tensor | None) -> int:
        """Select by embeddings [k, D], or by equal texts where there are none."""
        if embeddings is None:
            values = agreeing([c.text for c in candidates])
        else:
            # Rounded, so that noise does not decide between equals.
            values = [round(value, 5) for value in centrality(embeddings)]
        kept = Need.DRAFT_LOGPROBS
        confidence = [min_logprob(c.statistics) if c.has(kept) else 0.0 for c in candidates]
        return max(range(len(candidates)), key=lambda i: (values[i], confidence[i], -i))

    @cached_property
    def _encoding(self) -> Batcher[list[str], Any]:
        encoder = self.encoder
        assert encoder is not None
        return Batcher(lambda asked: [encoder(texts) for texts in asked], 1, "The encoder")

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Select a candidate, and accept or reject it."""
        chosen = yield from select_candidate(self, step.candidates)
        details = self._scoring.measure(step.candidates)
        raw = details[chosen] if details else {}
        unit = self._scoring.units(raw)
        score = self._scoring.mean(list(unit.values()))
        decision = StepDecision(
            chosen=chosen,
            accepted=score is not None and score >= self.threshold,
            reason=REWRITTEN,
            signals=raw,
            normalised=unit,
            score=score,
            threshold=self.threshold,
            details=details,
        )
        if self.scorer == "draft" and score is not None:
            if decision.accepted:
                return replace(decision, reason=KEPT)
            if self.lower is None or score < self.lower:
                return decision
        return (yield from self._ask_target(step, decision))

    def _ask_target(
        self, step: Step, decision: StepDecision
    ) -> Generator[Operation, Any, StepDecision]:
        """Let the target read the step in one pass; the token with the smallest margin decides."""
        reading = yield from step.read(decision.chosen)
        # The smallest margin of a token over the best other one; negative where another is better.
        margin = min(reading.margins, default=0.0)
        ratio = math.exp(min(margin, 0.0))
        accepted = ratio >= self.target_threshold
        if self.scorer == "target":
            decision = replace(decision, score=ratio, threshold=self.target_threshold)
        return replace(
            decision,
            accepted=accepted,
            reason=CONFIRMED if accepted else REFUSED,
            signals={
                **decision.signals,
                TARGET_LOGPROB: min(reading.logprobs, default=0.0),
                TARGET_MARGIN: margin,
            },
        )


def _mean(step: ReadStep) -> float:
    """The mean over tokens and models of the log-probability of a step, in nats."""
    return (math.fsum(step.target) + math.fsum(step.draft)) / (2 * len(step.target))


def _to_names(names: Any) -> tuple[str, ...]:
    """Names as a tuple; a single name may be given as a string."""
    return (names,) if isinstance(names, str) else tuple(names)


def _to_tuples(value: Any) -> Any:
    """Turn lists, as JSON has them, into tuples, as a frozen dataclass holds them."""
    return tuple(_to_tuples(item) for item in value) if isinstance(value, list) else value
