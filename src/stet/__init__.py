"""Stet: speculative decoding with a verification policy of your choice.

A draft model proposes tokens, a target model scores them, and a verification policy decides which
of the drafted tokens are accepted. Start with `load_pair`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Idle worker threads should sleep, not spin: with anything else on the machine, spinning ones make
# a pass of a few milliseconds take hundreds. The runtime reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from stet.core.draft_length import AdaptiveLength, FixedLength
    from stet.core.errors import StetError
    from stet.core.result import Chunk, Result, TextReading
    from stet.integrations.transformers import custom_generate
    from stet.load import load_pair
    from stet.pair import Pair
    from stet.policies import BlockVerification, CoSpec, Exact, SpecGuard
    from stet.remote.target import RemoteTarget

_HOMES = {
    "AdaptiveLength": "stet.core.draft_length",
    "BlockVerification": "stet.policies",
    "Chunk": "stet.core.result",
    "CoSpec": "stet.policies",
    "Exact": "stet.policies",
    "FixedLength": "stet.core.draft_length",
    "Pair": "stet.pair",
    "RemoteTarget": "stet.remote.target",
    "Result": "stet.core.result",
    "SpecGuard": "stet.policies",
    "StetError": "stet.core.errors",
    "TextReading": "stet.core.result",
    "custom_generate": "stet.integrations.transformers",
    "load_pair": "stet.load",
}

__all__ = [
    "AdaptiveLength",
    "BlockVerification",
    "Chunk",
    "CoSpec",
    "Exact",
    "FixedLength",
    "Pair",
    "RemoteTarget",
    "Result",
    "SpecGuard",
    "StetError",
    "TextReading",
    "custom_generate",
    "load_pair",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `stet --help` need not load torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stet' has no attribute {name!r}")
