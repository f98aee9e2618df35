"""Compiled code that brings weights into the kernel's layout, tile by tile, in torch's threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path

import torch

from stet.kernels.build import KernelError, load_library
from stet.kernels.threads import parallel_entry

TENSORS = tuple(
    (name, ctypes.c_void_p) for name in ("codes", "scales", "mins", "super_scales", "super_mins")
)
"""Fields of a job: the tensors of a weight, by the names that `PackedWeight` gives them."""


def addresses(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """What the fields of `TENSORS` are set to; those that a format lacks stay null."""
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def run_tiles(source: Path, function: str, job: ctypes.Structure) -> bool:
    """Run a job to its end.

    Args:
        source: the C file.
        function: in it: takes the job, OpenMP's entry for a parallel region, and threads.
        job: what is done.

    Returns:
        Whether it was; False where the code cannot be had.
    """
    library = _library(source)
    if library is None:
        return False
    entry = ctypes.c_void_p(parallel_entry())
    getattr(library, function)(ctypes.byref(job), entry, torch.get_num_threads())
    return True


@functools.cache
def _library(source: Path) -> ctypes.CDLL | None:
    try:
        return load_library(source)
    except KernelError:
        return None
