"""Signals: numbers from the models themselves that tell how good a step is."""

from stet.signals.agreement import agreeing, centrality
from stet.signals.base import SIGNALS, Signal
from stet.signals.confidence import CONFIDENCE
from stet.signals.grounding import GROUNDING, Grounding

__all__ = [
    "CONFIDENCE",
    "GROUNDING",
    "SIGNALS",
    "Grounding",
    "Signal",
    "agreeing",
    "centrality",
]
