"""The draft's whole answer where it is confident: a plain baseline for other policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from stet.core.errors import OptionError
from stet.core.policy import AnswerPolicy
from stet.policies.registry import register

Statistic = Literal["mean", "min"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


@register
@dataclass(frozen=True)
class Cascade(AnswerPolicy):
    """The draft answers alone; where its confidence is too low, the target answers instead.

    Source: the two-model case of the cascade of Chen et al., "FrugalGPT", arXiv 2305.05176, with
    the draft's own probability in place of a trained score. The answer is judged as the request
    limits it: unlike elsewhere, `max_new_tokens` and stop strings may change which model answers.

    Attributes:
        threshold: the geometric mean (or smallest) probability of its tokens from which on the
            draft's answer is accepted, 0 to 1. Choose it for a pair and a task on problems that
            are not part of the evaluation.
        statistic: "mean" (geometric) or "min".
    """

    threshold: float = 0.9
    statistic: Statistic = "mean"

    name: ClassVar[str] = "cascade"
    lossless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}; it must be between 0 and 1.")
        if self.statistic not in STATISTICS:
            listed = ", ".join(STATISTICS)
            raise OptionError(f"statistic is {self.statistic!r}; choose from {listed}.")

    def accepts_answer(self, logprobs: Sequence[float]) -> bool:
        """Whether an answer with these log-probabilities of its tokens is accepted."""
        if not logprobs:
            return False
        value = min(logprobs) if self.statistic == "min" else sum(logprobs) / len(logprobs)
        return math.exp(value) >= self.threshold
