"""What a piece of work does with memory: counted, never timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

VOCAB = 151_936
"""Tokens of Qwen2.5's vocabulary: what a model of today has."""


def allocations(work: Callable[[], Any]) -> list[int]:
    """Bytes of every allocation on the host that the work makes, inside operations too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    results: Any = seen.profiler
    events = results.kineto_results.events()
    return [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]
