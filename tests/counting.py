"""Memory of a piece of work: counted, never timed."""

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


def peak(work: Callable[[], Any]) -> int:
    """The most bytes on the host that the work holds at a time, inside operations too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    results: Any = seen.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
