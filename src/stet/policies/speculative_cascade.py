"""Speculative cascades: token by token the draft answers, or defers to the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from stet.core.errors import OptionError
from stet.policies.combined import CombinedPolicy
from stet.policies.registry import register

Rule = Literal["chow", "difference", "optimal"]
RULES: tuple[Rule, ...] = get_args(Rule)


@register
@dataclass(frozen=True)
class SpeculativeCascade(CombinedPolicy):
    """Decode from the draft's distribution, and from the target's where the draft defers.

    With the distributions q of the draft and p of the target, the draft defers at a position if

    - "chow": max q < 1 - cost. The draft's confidence alone decides.
    - "difference": max q < max p - cost. The target has to be surer, by the cost.
    - "optimal": max q < max p - cost * TV(p, q). It costs more to defer where the models differ,
      since speculation then pays least. TV is the total variation distance.

    Source: Narasimhan et al., "Faster Cascades via Speculative Decoding", ICLR 2025,
    arXiv 2405.19261, where they are SpecCascade [Chow], [Diff] and [OPT]. p and q are the models'
    own, before temperature and truncation and after the request's penalty and bias; so the rule is
    the same at temperature 0. The bonus token is deferred, and the text is block-invariant.

    Attributes:
        rule: when the draft defers.
        cost: of deferring, alpha in the paper; the higher, the more of the text is the draft's.
    """

    rule: Rule = "optimal"
    cost: float = 0.2

    name: ClassVar[str] = "speculative-cascade"
    unanimous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if self.rule not in RULES:
            raise OptionError(f"rule is {self.rule!r}; choose from {', '.join(RULES)}.")
        if not math.isfinite(self.cost):
            raise OptionError(f"cost is {self.cost}; it must be a finite number.")

    def combine(self, target: Tensor, draft: Tensor) -> Tensor:
        """The draft's or the target's log-probabilities [B, K, V]; see `CombinedPolicy`."""
        sure = draft.amax(-1).exp()
        if self.rule == "chow":
            defers = sure < 1 - self.cost
        elif self.rule == "difference":
            defers = sure < target.amax(-1).exp() - self.cost
        else:
            distance = (target.exp() - draft.exp()).abs().sum(-1) / 2
            defers = sure < target.amax(-1).exp() - self.cost * distance
        return torch.where(defers[..., None], target, draft)
