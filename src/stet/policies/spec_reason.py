"""SpecReason: the target rates the usefulness of the draft's step in one token."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

from stet.core.block import EMPTY
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.operations import Join, Operation, Score
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Step, StepDecision
from stet.core.steps import LOOP, Delimiter
from stet.policies.rated import RatedPolicy
from stet.policies.registry import register

Scoring = Literal["expected", "likeliest"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)
DIGITS = "0123456789"

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
        return len(_tokenize_question(tokenizer, self.question).tokens)

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Let the target rate the candidates; accept or reject the best rated one."""
        asked = _tokenize_question(_tokenizer_of(step), self.question)
        details: list[dict[str, float]]
        if any(c.translated is not None for c in step.candidates):
            # They are not in the target's cache, so each is rated in turn after the accepted text.
            details = []
            for c in step.candidates:
                details.append((yield from self._rate(step.sequence, asked, c.target_tokens)))
        else:
            details = yield Join([self._rate(c.sequence, asked) for c in step.candidates])
        return self.decide("utility", details)

    def _rate(
        self, text: TokenSequence, asked: _Question, candidate: Sequence[int] = ()
    ) -> Generator[Operation, Any, dict[str, float]]:
        """Rate a candidate; also returns the total probability of the ten digits.

        Args:
            text: the text up to the candidate's end; without it where `candidate` is given.
            asked: the question.
            candidate: the candidate in the target's tokens, where `text` does not contain it.
        """
        ended = bool(candidate) and candidate[-1] in text.limits.stop_token_ids
        said = candidate[:-1] if ended else candidate
        with text.side_query((*said, *asked.tokens)) as sequence:
            logprobs: list[float] = yield Score(sequence, EMPTY, None, choices=asked.digits)
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


@dataclass(frozen=True, slots=True)
class _Question:
    """A question as tokens.

    Attributes:
        tokens: the question's tokens, up to the digit.
        digits: the tokens of the digits 0 to 9 after the question.
    """

    tokens: tuple[int, ...]
    digits: tuple[int, ...]


def _tokenizer_of(step: Step) -> Any:
    return step.sequence.decoder


@lru_cache(maxsize=16)
def _tokenize_question(tokenizer: Any, question: str) -> _Question:
    """Tokenize a question with each of the ten answers after it.

    Raises:
        OptionError: a digit after the question is not a single token of its own.
    """
    written = [tuple(tokenizer.encode(question + d, add_special_tokens=False)) for d in DIGITS]
    tokens, digits = written[0][:-1], tuple(answer[-1] for answer in written)
    if any(answer[:-1] != tokens for answer in written) or len(set(digits)) < 10:
        raise OptionError(
            "This tokenizer does not write a digit after the question as one token of its own; "
            "end the question differently, for example with a line break."
        )
    return _Question(tokens, digits)
