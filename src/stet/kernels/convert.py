"""The compiled code `convert.c`: weights brought into the kernel's layout, as fast as they load."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from stet.kernels.build import KernelError, load_library
from stet.kernels.threads import parallel_entry

SOURCE = Path(__file__).with_name("convert.c")


class _Job(ctypes.Structure):
    """`Job` of convert.c."""

    _fields_ = (
        ("from", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("brain", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("mins", ctypes.c_void_p),
        ("super_scales", ctypes.c_void_p),
        ("super_mins", ctypes.c_void_p),
        ("next_tile", ctypes.c_int64),
        ("faulty", ctypes.c_int32),
    )


def convert(weight: torch.Tensor, bits: int, tensors: dict[str, torch.Tensor]) -> bool | None:
    """Fill the tensors of a weight in the kernel's layout.

    Args:
        weight: `[outputs, inputs]`, on the CPU, contiguous, float32 or bfloat16 (16 bits:
            bfloat16).
        bits: 4, 8 or 16.
        tensors: those of the result, by their names.

    Returns:
        Whether all of its numbers are finite (not looked at for 16 bits); None where the code
        cannot be had, and nothing was done.
    """
    library = _library()
    if library is None:
        return None
    job = _Job(
        rows=weight.shape[0],
        inputs=weight.shape[1],
        brain=weight.dtype == torch.bfloat16,
        bits=bits,
        **{"from": weight.data_ptr()},
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    entry = ctypes.c_void_p(parallel_entry())
    library.stet_convert(ctypes.byref(job), entry, torch.get_num_threads())
    return not job.faulty


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return load_library(SOURCE)
    except KernelError:
        return None
