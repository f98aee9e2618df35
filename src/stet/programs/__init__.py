"""Decoding programs: each algorithm written once, for one sequence."""

from stet.programs.autoregressive import autoregressive, drafting
from stet.programs.cascade import cascade
from stet.programs.speculative import speculative
from stet.programs.stepwise import stepwise

__all__ = ["autoregressive", "cascade", "drafting", "speculative", "stepwise"]
