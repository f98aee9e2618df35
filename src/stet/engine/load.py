"""How much of the machine other work holds: timings taken meanwhile are of both."""

from __future__ import annotations

import os
import time

import psutil
import torch

ALLOWED = 0.25
"""Cores that others may hold beside those that a pass leaves free, since some work always runs."""


class Others:
    """Counts the processor time of everything but this process, from when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._all, self._own = _busy_seconds(), time.process_time()

    def disturb(self) -> bool:
        """Whether others held so many cores that a pass of this thread had too few left.

        What is counted is whole cores; memory that others read meanwhile does not show.
        """
        seconds = time.perf_counter() - self._began
        own = time.process_time() - self._own
        # The system counts in hundredths of a second.
        held = max(_busy_seconds() - self._all - own - 0.02, 0.0) / max(seconds, 1e-6)
        free = (os.cpu_count() or 1) - torch.get_num_threads()
        return held > max(free, 0) + ALLOWED


def _busy_seconds() -> float:
    """Seconds of all cores in which they worked, or were taken by other guests of the host."""
    times = psutil.cpu_times()
    busy = times.user + times.system
    return busy + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
