"""Signals: what a model's own numbers say about a step that it wrote."""

from stet.signals.agreement import agreeing, centrality
from stet.signals.base import SIGNALS, Signal
from stet.signals.confidence import CONFIDENCE

__all__ = ["CONFIDENCE", "SIGNALS", "Signal", "agreeing", "centrality"]
