"""Verification policies: the rules that decide which drafted text stands."""

from stet.policies.base import (
    ACCEPT,
    HOLD,
    NEXT,
    STANDARD_REASONS,
    Blocks,
    Need,
    TokenPolicy,
    Verdict,
    at,
    parameters,
    prefix_length,
)
from stet.policies.block import Block
from stet.policies.exact import Exact
from stet.policies.registry import available, register, resolve

__all__ = [
    "ACCEPT",
    "HOLD",
    "NEXT",
    "STANDARD_REASONS",
    "Block",
    "Blocks",
    "Exact",
    "Need",
    "TokenPolicy",
    "Verdict",
    "at",
    "available",
    "parameters",
    "prefix_length",
    "register",
    "resolve",
]
