"""How the threads of passes wait: awake while the cores are theirs, asleep beside other work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

from stet.engine.load import Others
from stet.kernels.threads import Crowd

EVERY = 0.5
"""Seconds over which other work is looked at; the system counts it in hundredths."""


class Disturbing(Protocol):
    """Tells whether others held the cores since it was made."""

    def disturb(self) -> bool:
        """Whether they did."""
        ...


class Waits:
    """Looks now and then at what else the machine does. For the thread that runs the models.

    Where a pass uses all cores, threads that wait for its next operation awake make it a tenth
    faster. Beside other work they would make it half as fast, as the system may run a waiting
    thread in place of the one that is waited for.

    Args:
        crowd: makes waiting threads sleep.
        others: begins to look at other work.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        crowd: Crowd | None = None,
        others: Callable[[], Disturbing] = Others,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._crowd = Crowd() if crowd is None else crowd
        self._make, self._clock = others, clock
        self._others, self._next = others(), clock() + EVERY

    def look(self) -> None:
        """Called between rounds; it takes no time but every half second, and then little."""
        now = self._clock()
        if now < self._next:
            return
        # After a pause what was counted is about the pause, too.
        late = now > self._next + EVERY
        disturbed = torch.get_num_threads() > 1 and not late and self._others.disturb()
        self._others, self._next = self._make(), now + EVERY
        if late:
            return
        if disturbed:
            self._crowd.come()
        else:
            self._crowd.go()

    def end(self) -> None:
        """Leave the process as it was."""
        self._crowd.go()
