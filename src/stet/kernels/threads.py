"""The threads of kernels: torch's own, since a second set would fight with them for the cores."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


def parallel_entry() -> int | None:
    """The address of GOMP_parallel in the OpenMP library that torch runs its threads with.

    A library's handle finds what it is linked with, so this is torch's own, also where a process
    holds several. Without it kernels run in the calling thread.
    """
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
