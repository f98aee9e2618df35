"""The draft's whole answer where it is sure of it: a plain rule to hold clever ones against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stet.core.errors import OptionError
from stet.core.policy import AnswerPolicy
from stet.policies.registry import register

STATISTICS = ("mean", "min")


@register
@dataclass(frozen=True)
class Cascade(AnswerPolicy):
    """The draft answers alone; where it was not sure enough, the target answers instead.

    Source: the two-model case of the cascade of Chen et al., "FrugalGPT", arXiv 2305.05176, with
    the draft's own probability in place of a trained score. What is judged is the answer as the
    request bounds it: unlike elsewhere, `max_new_tokens` and stop strings may change who answers.

    Attributes:
        threshold: the geometric mean (or smallest) probability of its tokens at which the draft's
            answer stands, 0 to 1. The value for a pair and a task has to be found on problems that
            are not measured on.
        statistic: "mean" or "min".
    """

    threshold: float = 0.9
    statistic: str = "mean"

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

    def keeps(self, logprobs: Sequence[float]) -> bool:
        """Whether an answer with these log-probabilities of its tokens stands."""
        if not logprobs:
            return False
        value = min(logprobs) if self.statistic == "min" else sum(logprobs) / len(logprobs)
        return math.exp(value) >= self.threshold
