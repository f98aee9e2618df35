"""Fuzzy speculative decoding: accept mismatches where both distributions are close."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.verification import Mismatches
from stet.policies.mismatches import MismatchPolicy, at_mismatches
from stet.policies.registry import register

Divergence = Literal["kl", "js", "tv"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)


@register
@dataclass(frozen=True)
class Fuzzy(MismatchPolicy):
    """At a mismatch, the draft's token is accepted if the models' distributions are close.

    Source: Holsman et al., "Fuzzy Speculative Decoding for a Tunable Accuracy-Runtime Tradeoff",
    arXiv 2502.20704. Raw distributions are compared, so that the rule also applies at temperature
    0. The policy is block-invariant. Our own: a token that the exact rule accepts is always
    accepted (at temperature 0 this gives the same text); the default threshold; and the direction
    of "kl", which is `kl_div_reversed` in the authors' code, whose `kl_div` is KL(draft, target).
    The Jensen-Shannon divergence there has the arguments of both terms exchanged; ours is the usual
    one.

    Attributes:
        threshold: the largest divergence at which the draft's token is accepted.
        divergence: "js" (Jensen-Shannon, in nats), "kl" (of the draft from the target, KL(target,
            draft), in nats) or "tv" (total variation, 0 to 1).
    """

    threshold: float = 0.1
    divergence: Divergence = "js"

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
        """Whether drafted tokens are accepted at mismatches; see `MismatchPolicy`."""
        return at_mismatches(blocks, mismatches, self._accepts, draft=True)

    def _accepts(self, target: Tensor, draft: Tensor, token: Tensor) -> Tensor:
        """Whether each token is accepted, [N] bool; see `at_mismatches`."""
        del token
        return self._divergence(target.log_softmax(-1), draft.log_softmax(-1)) <= self.threshold

    def _divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """The divergence [N] of two batches of distributions, log-probabilities [N, V]."""
        if self.divergence == "tv":
            return (p.exp() - q.exp()).abs().sum(-1) / 2
        if self.divergence == "kl":
            return _kl(p, q)
        middle = p.logaddexp(q) - math.log(2)
        return (_kl(p, middle) + _kl(q, middle)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    # A token of probability 0 under p adds 0, whatever its probability under q.
    return (p.exp() * (p - q)).nan_to_num(nan=0.0).sum(-1)
