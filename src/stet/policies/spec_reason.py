"""SpecReason: the target rates the usefulness of the draft's step in one token."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.operations import Operation
from stet.core.questions import tokenize_question
from stet.core.step_policy import Step, StepDecision
from stet.core.steps import LOOP, Delimiter
from stet.policies.rated import RatedPolicy
from stet.policies.registry import register

Scoring = Literal["expected", "likeliest"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)
DIGITS = tuple("0123456789")

QUESTION = (
    "\n\nHow much does the last step above bring the solution closer to the right answer, from 0 "
    "(wrong or useless) to 9 (right and needed)? One digit: "
)


@register
@dataclass(frozen=True)
class SpecReason(RatedPolicy):
    """The target rates the draft's step from 0 to 9 with one token; below 7 it rewrites the step.

    A question is appended to the step as a side query, and the target's probabilities of the ten
    digits as the next token give the rating. The target has to be a model that answers questions.
    The bundled target is not: its ratings mean nothing.

    Source: Pan et al., "SpecReason", arXiv 2504.07891, and the authors' code: the digit itself (the
    default there, with 0 for any other token) or the mean over the digits' probabilities (there of
    those among the ten most probable tokens), and a threshold of 7. Our own: the mean as the
    default, the most probable of the digits even where another token is more probable, and the
    wording.

    Attributes:
        threshold: the rating from which on a step is accepted, 0 to 9.
        scoring: "expected", the mean digit under the target's probabilities, or "likeliest".
        question: the question to the target, up to the digit; may contain special tokens of a chat.
        candidates: number of candidates of a step that the draft writes; the best rated one is
            accepted or rejected.
        temperature: sampling temperature of the candidates; 0 for the most probable text.
        top_p: nucleus sampling of the candidates.
        delimiter: text that ends a step, several of them, or "sentence".
        step_tokens: the most tokens of a step.
        loop_after: repetitions of one accepted step, or of two or three in turn, after which an
            answer ends with the finish reason "loop"; 0 for never.
        target_candidates: number of candidates of a step that the target writes; the text that
            most of them share is taken.
        shadow: decide and record, but let the target write every step.
    """

    threshold: float = 7.0
    scoring: Scoring = "expected"
    question: str = QUESTION
    candidates: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    delimiter: Delimiter = "\n"
    step_tokens: int = 128
    target_candidates: int = 1
    shadow: bool = False
    loop_after: int = LOOP

    name: ClassVar[str] = "spec-reason"
    lossless: ClassVar[bool] = False
    _kept: ClassVar[str] = "step found useful"
    _most: ClassVar[int] = 9
    needs: ClassVar[frozenset[Need]] = frozenset()
    asks_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        super().__post_init__()
        if self.scoring not in SCORINGS:
            listed = ", ".join(SCORINGS)
            raise OptionError(f"scoring is {self.scoring!r}; choose from {listed}.")
        if not self.question:
            raise OptionError("question is empty; ask for a digit from 0 to 9.")

    # What the program asks

    def appends(self, tokenizer: Any) -> int:
        """Tokens of the question, for which room is reserved after every text."""
        return len(tokenize_question(tokenizer, self.question, DIGITS).tokens)

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Let the target rate the candidates; accept or reject the best rated one."""
        answers = yield from step.ask(self.question, DIGITS)
        return self.decide("utility", [self._rated(logprobs) for logprobs in answers])

    def _rated(self, logprobs: Sequence[float]) -> dict[str, float]:
        """A candidate's rating, and the total probability of the ten digits."""
        share = sum(math.exp(value) for value in logprobs)
        return {"utility": self.utility(logprobs), "digit_probability": share}

    def utility(self, logprobs: Sequence[float]) -> float:
        """The rating, 0 to 9, from the log-probabilities of the ten digits, in nats."""
        if self.scoring == "likeliest":
            return float(max(range(10), key=logprobs.__getitem__))
        # Relative to the best digit: all of them may be improbable.
        best = max(logprobs)
        weights = [math.exp(value - best) for value in logprobs]
        return sum(d * w for d, w in enumerate(weights)) / sum(weights)
