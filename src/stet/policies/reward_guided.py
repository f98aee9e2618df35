"""Reward-guided decoding: a process reward model accepts or rejects the draft's steps."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.operations import Operation
from stet.core.step_policy import Step, StepDecision
from stet.core.steps import LOOP, Delimiter
from stet.policies.rated import RatedPolicy
from stet.policies.registry import register
from stet.rewards import FunctionReward, Reward, as_reward


@register
@dataclass(frozen=True)
class RewardGuided(RatedPolicy):
    """A process reward model rates the draft's step; below a threshold the target rewrites it.

    What the target writes is not rated. Source: Liao et al., "Reward-Guided Speculative Decoding
    for Efficient LLM Reasoning", arXiv 2501.19324, with a threshold of 0.7. Our own: rewards
    from the draft's hidden states, and several candidates.

    Attributes:
        reward: "head" (on the bundled draft's hidden states), "bundled" (the small model that
            ships with the package), the folder of a head, folder or hub name of a sequence or
            token classifier; in Python also a `stet.rewards.Reward`, or a function
            `(prompt, steps, candidate) -> float`, plain or a coroutine function.
        threshold: the reward from which on a step is accepted, 0 to 1.
        candidates: number of candidates of a step that the draft writes; the one with the largest
            reward is accepted or rejected.
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

    reward: Any = "head"
    threshold: float = 0.7
    candidates: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    delimiter: Delimiter = "\n"
    step_tokens: int = 128
    target_candidates: int = 1
    shadow: bool = False
    loop_after: int = LOOP

    name: ClassVar[str] = "reward-guided"
    lossless: ClassVar[bool] = False
    _kept: ClassVar[str] = "step rewarded"
    _most: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if callable(self.reward) and not isinstance(self.reward, Reward):
            object.__setattr__(self, "reward", FunctionReward(self.reward))
        if not isinstance(self.reward, (str, Reward)):
            raise OptionError(
                f"reward is {self.reward!r}; give a name or folder, a reward, or a function of "
                "prompt, steps and candidate."
            )
        super().__post_init__()

    @property
    def _rater(self) -> Reward:
        """The reward itself; a name is loaded once, at its first use."""
        return as_reward(self.reward)

    # What the program asks

    @property
    def pair(self) -> str | None:
        """Fingerprint of the only pair that the reward may be used with; None for any."""
        return self._rater.pair

    @property
    def other_pair(self) -> str:
        """The error message where the policy is used with another pair."""
        return (
            f"The reward {self._rater.name!r} was trained for another pair; name a reward model "
            "(reward=...), or train a reward for this pair."
        )

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the draft's passes."""
        return self._rater.needs

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Rate the candidates; accept or reject the one with the largest reward."""
        rewards = yield from self._rater.rate(step)
        return self.decide("reward", [{"reward": reward} for reward in rewards])
