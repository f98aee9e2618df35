"""Decoding from the mean of both models: a plain baseline for trained policies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.policies.combined import CombinedPolicy
from stet.policies.registry import register

Space = Literal["logprobs", "probs"]
SPACES: tuple[Space, ...] = get_args(Space)


@register
@dataclass(frozen=True)
class Ensemble(CombinedPolicy):
    """Decode from a weighted mean of both models' predictions, speculating with the draft's blocks.

    The emitted text is that of the mean alone: its most probable tokens at temperature 0, samples
    from it above. It does not depend on where blocks end. Predictions are averaged after the
    request's penalty and bias, so a weight of 0 is the target and a weight of 1 the draft.

    Attributes:
        weight: the draft's share, 0 to 1.
        space: what is averaged: "logprobs" (a normalised geometric mean) or "probs".
    """

    weight: float = 0.5
    space: Space = "logprobs"

    name: ClassVar[str] = "ensemble"
    unanimous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not 0 <= self.weight <= 1:
            raise OptionError(f"weight is {self.weight}; it must be between 0 and 1.")
        if self.space not in SPACES:
            raise OptionError(f"space is {self.space!r}; choose from {', '.join(SPACES)}.")

    def combined(self, blocks: Blocks) -> Tensor:
        """Logits of the mean, [B, K + 1, V]; see `CombinedPolicy`."""
        # The target alone needs no logarithms, and has its own logits to the last bit.
        return super().combined(blocks) if self.weight else blocks.target_logits

    def combine(self, target: Tensor, draft: Tensor) -> Tensor:
        """The mean of log-probabilities [B, K, V]; see `CombinedPolicy`."""
        if self.weight in (0, 1):  # copied text has no logarithms to be weighted
            return draft if self.weight else target
        if self.space == "probs":
            return torch.logaddexp(
                target + math.log(1 - self.weight), draft + math.log(self.weight)
            )
        return (1 - self.weight) * target + self.weight * draft
