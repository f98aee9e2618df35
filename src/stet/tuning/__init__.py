"""Tuning a draft model: on its target's own texts, or on a user's examples."""

from stet.tuning.examples import Example, read_examples, write_examples
from stet.tuning.request import TuneRequest
from stet.tuning.tuning import Tuned, tune

__all__ = ["Example", "TuneRequest", "Tuned", "read_examples", "tune", "write_examples"]
