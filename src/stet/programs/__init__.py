"""Decoding programs: each algorithm written once, for one sequence."""

from stet.programs.autoregressive import autoregressive, drafting
from stet.programs.cascade import cascade
from stet.programs.correspondence import Correspondent, correspondence, dictation
from stet.programs.exchange import Mirror, exchange
from stet.programs.speculative import speculative
from stet.programs.stepwise import stepwise

__all__ = [
    "Correspondent",
    "Mirror",
    "autoregressive",
    "cascade",
    "correspondence",
    "dictation",
    "drafting",
    "exchange",
    "speculative",
    "stepwise",
]
