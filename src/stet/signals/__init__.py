"""Signals: numbers from the models themselves that tell how good a step is."""

from stet.signals.agreement import agreeing, centrality
from stet.signals.base import HEAD, SIGNALS, Signal, sign_of, trained
from stet.signals.confidence import CONFIDENCE
from stet.signals.grounding import GROUNDING, Grounding

__all__ = [
    "CONFIDENCE",
    "GROUNDING",
    "HEAD",
    "SIGNALS",
    "Grounding",
    "Signal",
    "agreeing",
    "centrality",
    "sign_of",
    "trained",
]
