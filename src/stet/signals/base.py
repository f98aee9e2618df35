"""All signals by name: what each needs, its sign, and its default normalisation to 0..1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.core.needs import AttentionCapture, Need
from stet.signals.agreement import agreeing
from stet.signals.confidence import BEST, CONFIDENCE
from stet.signals.grounding import GROUNDING

if TYPE_CHECKING:
    from stet.core.step_policy import Candidate


@dataclass(frozen=True, slots=True)
class Signal:
    """A number about each candidate of a step.

    Attributes:
        name: its name in parameters and reports.
        about: a description in one line.
        needs: what the engine must keep of the draft's passes for it.
        sign: 1 if more of it is better, -1 if less is.
        measure: computes the raw values of all candidates of a step, in order.
        unit: maps a raw value to 0 (worst) .. 1 (best), where no calibration gives a range.
        capture: which attention the engine must capture for it; None: none.
        best: the best raw value that is still possible for a greedy step whose first tokens have
            these log-probabilities; None: no bound is known.
        best_of_favourites: whether `best` holds only where each token is the most probable one of
            its raw distribution, which penalties and biases may change.
        reads: which of a candidate's statistics it is computed from
            (`stet.core.block.STATISTICS`); None: none.
    """

    name: str
    about: str
    needs: frozenset[Need]
    sign: int
    measure: Callable[[Sequence[Candidate]], list[float]]
    unit: Callable[[float], float]
    capture: AttentionCapture | None = None
    best: Callable[[Sequence[float]], float] | None = None
    best_of_favourites: bool = False
    reads: str | None = None


def _confidence(name: str) -> Signal:
    function = CONFIDENCE[name]

    def measure(candidates: Sequence[Candidate]) -> list[float]:
        return [function(candidate.statistics) for candidate in candidates]

    about = (function.__doc__ or "").split("\n")[0]
    needs = frozenset({Need.DRAFT_LOGPROBS})
    best = BEST.get(name)
    unit: Callable[[float], float]
    if name.endswith("entropy"):
        sign, reads, unit = -1, "entropies", _surprise
    elif name.endswith("margin"):
        sign, reads, unit = 1, "margins", _lead
    else:
        sign, reads, unit = 1, "logprobs", math.exp
    return Signal(
        name,
        about,
        needs,
        sign,
        measure,
        unit,
        best=best,
        best_of_favourites=name.endswith("entropy"),
        reads=reads,
    )


def _surprise(value: float) -> float:
    return math.exp(-value)


def _lead(value: float) -> float:
    return 1 - math.exp(-value)


def _grounding(name: str) -> Signal:
    about, grounding = GROUNDING[name]
    return Signal(
        name, about, frozenset(), 1, grounding.measure, lambda value: value, grounding.capture
    )


def _agreement(candidates: Sequence[Candidate]) -> list[float]:
    return agreeing([candidate.text for candidate in candidates])


HEAD = "head"
"""The name of the trained signal, which is a pair's own and so not in `SIGNALS`."""


def trained(measure: Callable[[Sequence[Candidate]], list[float]]) -> Signal:
    """The trained signal.

    Args:
        measure: computes a head's logits that candidates are good steps.
    """
    about = "A trained head on the draft's hidden states, as a logit."
    return Signal(HEAD, about, frozenset({Need.DRAFT_HIDDEN}), 1, measure, _chance)


def _chance(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


SIGNALS: dict[str, Signal] = {
    **{name: _confidence(name) for name in CONFIDENCE},
    **{name: _grounding(name) for name in GROUNDING},
    "agreement": Signal(
        "agreement",
        "The share of the candidates with the same text.",
        frozenset(),
        1,
        _agreement,
        lambda value: value,
    ),
}
"""All signals, by name."""


def sign_of(name: str) -> int:
    """1 where more of a signal is better, -1 where less is."""
    return 1 if name == HEAD else SIGNALS[name].sign
