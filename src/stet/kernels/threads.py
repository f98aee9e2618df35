"""The threads of kernels: torch's own, since a second set would fight with them for the cores.

OpenMP keeps a pool of threads for every thread that computed in several. Between two operations
they wait for the next one awake, for some milliseconds, unless a process holds more of them than
the machine has cores: then they sleep almost at once. Waking takes a tenth of a pass of a small
model; a core that other work wants is not to be waited on.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from pathlib import Path
from typing import Any

import torch

_SOFT = 1
"""OpenMP's `omp_pause_soft`: what is freed can be had again, and settings stay."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    """What torch's CPU part is linked with, so that this is its own OpenMP where there are several.

    None where torch runs its threads by something else than GNU's library.
    """
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        _ = found.GOMP_parallel, found.omp_pause_resource_all
    except (OSError, AttributeError):
        return None
    return found


def parallel_entry() -> int | None:
    """The address of GOMP_parallel in the OpenMP library that torch runs its threads with.

    Without it kernels run in the calling thread.
    """
    library = _library()
    return None if library is None else ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value


def release_pool() -> None:
    """Free the idle threads that the calling thread computed with; new ones are made when needed.

    A thread that loads models and then leaves the work to another would otherwise count twice.
    """
    library = _library()
    if library is not None:
        library.omp_pause_resource_all(_SOFT)


class Crowd:
    """Idle threads that make all others of the process sleep while they wait, until it is left."""

    def __init__(self) -> None:
        self._leave: threading.Event | None = None

    @property
    def is_there(self) -> bool:
        """Whether waiting threads sleep."""
        return self._leave is not None

    def come(self) -> None:
        """Let waiting threads sleep."""
        library = _library()
        if self._leave is not None or library is None:
            return
        self._leave = threading.Event()
        arguments = (library, self._leave)
        threading.Thread(target=_stand, args=arguments, name="stet-crowd", daemon=True).start()

    def go(self) -> None:
        """Let waiting threads stay awake, where there are no more of them than cores."""
        if self._leave is not None:
            self._leave.set()
            self._leave = None


def _stand(library: Any, leave: threading.Event) -> None:
    """Hold a pool of more threads than there are cores; it goes with this thread."""
    nothing = ctypes.CDLL(None).free  # which does nothing with a null pointer
    library.GOMP_parallel(nothing, None, usable_cores() + 1, 0)
    leave.wait()


def usable_cores() -> int:
    """The cores that this process may run on, which OpenMP counts, too."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
