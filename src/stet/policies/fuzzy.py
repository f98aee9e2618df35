"""Fuzzy speculative decoding: the draft's token stands where both models expect much the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.verification import Mismatches
from stet.policies.mismatches import MismatchPolicy, at_mismatches
from stet.policies.registry import register

DIVERGENCES = ("kl", "js", "tv")


@register
@dataclass(frozen=True)
class Fuzzy(MismatchPolicy):
    """Where the models disagree, the draft's token stands if their distributions are close.

    Source: Holsman et al., "Fuzzy Speculative Decoding for a Tunable Accuracy-Runtime Tradeoff",
    arXiv 2502.20704. Raw distributions are compared, so that the rule also means something at
    temperature 0; the text does not depend on the length of blocks. Our own: a token that the exact
    rule accepts stands in any case (at temperature 0 the same text); the default threshold; and the
    direction of "kl", which is `kl_div_reversed` in the authors' code, whose `kl_div` is KL(draft,
    target). Its Jensen-Shannon divergence has the arguments of both terms exchanged; ours is the
    usual one.

    Attributes:
        threshold: the largest divergence at which the draft's token stands.
        divergence: "js" (Jensen-Shannon, in nats), "kl" (of the draft from the target, KL(target,
            draft), in nats) or "tv" (total variation, 0 to 1).
    """

    threshold: float = 0.1
    divergence: str = "js"

    name: ClassVar[str] = "fuzzy"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_PROBS, Need.DRAFT_LOGPROBS})

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not (self.threshold >= 0 and math.isfinite(self.threshold)):
            raise OptionError(f"threshold is {self.threshold}; it must not be negative.")
        if self.divergence not in DIVERGENCES:
            listed = ", ".join(DIVERGENCES)
            raise OptionError(f"divergence is {self.divergence!r}; choose from {listed}.")

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        """See `MismatchPolicy`."""
        return at_mismatches(blocks, mismatches, self._accepts, draft=True)

    def _accepts(self, target: Tensor, draft: Tensor, token: Tensor) -> Tensor:
        """[N], see `at_mismatches`."""
        del token
        return self._divergence(target.log_softmax(-1), draft.log_softmax(-1)) <= self.threshold

    def _divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """[N], from log-probabilities [N, V]."""
        if self.divergence == "tv":
            return (p.exp() - q.exp()).abs().sum(-1) / 2
        if self.divergence == "kl":
            return _kl(p, q)
        middle = p.logaddexp(q) - math.log(2)
        return (_kl(p, middle) + _kl(q, middle)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    # A token to which p gives nothing counts nothing, whatever q gives to it.
    return (p.exp() * (p - q)).nan_to_num(nan=0.0).sum(-1)
