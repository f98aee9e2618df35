"""Decoding programs: each algorithm written once, for one sequence."""

from stet.programs.autoregressive import autoregressive, drafting
from stet.programs.cascade import cascade
from stet.programs.cross_tokenizer import CrossTokenizer, cross_tokenizer_stepwise
from stet.programs.remote import RemoteWriter, remote_autoregressive, remote_stepwise
from stet.programs.speculative import speculative
from stet.programs.stepwise import stepwise

__all__ = [
    "CrossTokenizer",
    "RemoteWriter",
    "autoregressive",
    "cascade",
    "cross_tokenizer_stepwise",
    "drafting",
    "remote_autoregressive",
    "remote_stepwise",
    "speculative",
    "stepwise",
]
