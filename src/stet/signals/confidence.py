"""Confidence of a model in a step that it wrote, from its raw distributions.

Raw means at temperature 1 and before any truncation, penalty or bias: the distribution that was
sampled from depends on the settings more than on the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from stet.core.block import Statistics

WORST = 3
"""Tokens that `worst_logprob` averages over."""

LOW = 0.1
"""The quantile that `low_logprob` takes."""


def min_logprob(found: Statistics) -> float:
    """The smallest log-probability of a token of the step, in nats.

    Source: LPBV of SpecGuard, arXiv 2604.15244.
    """
    return min(found.logprobs)


def mean_logprob(found: Statistics) -> float:
    """The mean log-probability of the tokens, in nats."""
    return math.fsum(found.logprobs) / len(found.logprobs)


def sum_logprob(found: Statistics) -> float:
    """The log-probability of the whole step, in nats: the sum over its tokens.

    It is lower for long steps, which have more tokens to go wrong.
    """
    return math.fsum(found.logprobs)


def low_logprob(found: Statistics) -> float:
    """A low quantile of the log-probabilities, in nats; a single improbable token is ignored."""
    ordered = sorted(found.logprobs)
    return ordered[math.floor(LOW * (len(ordered) - 1))]


def worst_logprob(found: Statistics) -> float:
    """The mean of the few smallest log-probabilities, in nats.

    A single improbable token does not decide alone, as it does for the minimum.
    """
    ordered = sorted(found.logprobs)[:WORST]
    return math.fsum(ordered) / len(ordered)


def max_entropy(found: Statistics) -> float:
    """The largest entropy of a token's distribution, in nats."""
    return max(found.entropies)


def mean_entropy(found: Statistics) -> float:
    """The mean entropy of the tokens' distributions, in nats."""
    return math.fsum(found.entropies) / len(found.entropies)


def min_margin(found: Statistics) -> float:
    """The smallest margin of the most probable token over the second, in nats."""
    return min(found.margins)


CONFIDENCE: dict[str, Callable[[Statistics], float]] = {
    f.__name__: f
    for f in (
        min_logprob,
        sum_logprob,
        mean_logprob,
        low_logprob,
        worst_logprob,
        max_entropy,
        mean_entropy,
        min_margin,
    )
}
"""All signals of confidence, by name."""


def _best_min_logprob(logprobs: Sequence[float]) -> float:
    return min(logprobs, default=0.0)


def _best_sum_logprob(logprobs: Sequence[float]) -> float:
    return math.fsum(logprobs)


def _best_worst_logprob(logprobs: Sequence[float]) -> float:
    # Tokens to come may be certain.
    return math.fsum(sorted(logprobs)[:WORST]) / WORST


def _best_max_entropy(logprobs: Sequence[float]) -> float:
    # The entropy of a distribution is at least -log p of its most probable token. Another token, as
    # a penalty may choose, gives no bound.
    return -min(logprobs, default=0.0)


BEST: dict[str, Callable[[Sequence[float]], float]] = {
    "min_logprob": _best_min_logprob,
    "sum_logprob": _best_sum_logprob,
    "worst_logprob": _best_worst_logprob,
    "max_entropy": _best_max_entropy,
}
"""Functions from a greedy step's first log-probabilities to a bound on a signal, by its name."""
