"""What step policies share that rate the draft's candidates and decide about the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from stet.core.errors import OptionError
from stet.core.sampling import SamplingParams
from stet.core.step_policy import Candidate, StepDecision, StepPolicy
from stet.policies.checks import check_drafting
from stet.signals import agreeing

REWRITTEN = "step rewritten"


class RatedPolicy(StepPolicy):
    """A step policy that accepts the best rated candidate from a threshold on.

    Attributes:
        _kept: the reason of an accepted step.
        _most: the highest rating; the lowest is 0.
        threshold: the rating from which on a step is accepted.
        temperature: sampling temperature of the candidates; 0 for the most probable text.
        top_p: nucleus sampling of the candidates.
    """

    _kept: ClassVar[str]
    _most: ClassVar[int]

    threshold: float
    temperature: float
    top_p: float

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        given: Any = self.delimiter
        if isinstance(given, list):  # as JSON has it
            object.__setattr__(self, "delimiter", tuple(given))
        check_drafting(self)
        if not 0 <= self.threshold <= self._most:
            raise OptionError(
                f"threshold is {self.threshold}; it must be between 0 and {self._most}."
            )

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """How candidates are sampled: as the request asks, but for this policy's own parameters."""
        return replace(base, temperature=self.temperature, top_p=self.top_p)

    def select(self, candidates: Sequence[Candidate]) -> int:
        """Select the text that most of the target's candidates share; they are not rated."""
        shares = agreeing([c.text for c in candidates])
        return max(range(len(candidates)), key=lambda i: (shares[i], -i))

    def decide(self, signal: str, details: Sequence[dict[str, float]]) -> StepDecision:
        """Accept or reject the candidate with the highest rating; among equals, the first.

        Args:
            signal: name of the rating.
            details: signals of each candidate, the rating among them.
        """
        ratings = [signals[signal] for signals in details]
        chosen = max(range(len(ratings)), key=lambda i: (ratings[i], -i))
        accepted = ratings[chosen] >= self.threshold
        return StepDecision(
            chosen=chosen,
            accepted=accepted,
            reason=self._kept if accepted else REWRITTEN,
            signals=details[chosen],
            normalised={signal: ratings[chosen] / self._most},
            score=ratings[chosen],
            threshold=self.threshold,
            details=details,
        )
