"""Decoding programs: each algorithm written once, for one sequence."""

from stet.programs.autoregressive import autoregressive, drafting
from stet.programs.cascade import cascade
from stet.programs.cross_tokenizer import CrossTokenizerTarget
from stet.programs.local import LocalTarget
from stet.programs.reading import reading
from stet.programs.remote import EndpointTarget, remote_autoregressive, remote_stepwise
from stet.programs.remote_writer import RemoteWriter
from stet.programs.speculative import speculative
from stet.programs.stepwise import stepwise
from stet.programs.target_side import TargetSide

__all__ = [
    "CrossTokenizerTarget",
    "EndpointTarget",
    "LocalTarget",
    "RemoteWriter",
    "TargetSide",
    "autoregressive",
    "cascade",
    "drafting",
    "reading",
    "remote_autoregressive",
    "remote_stepwise",
    "speculative",
    "stepwise",
]
