"""The compiled code `convert.c`: weights brought into the kernel's layout, as fast as they load."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from stet.kernels.tiles import TENSORS, addresses, run_tiles

SOURCE = Path(__file__).with_name("convert.c")


class _Job(ctypes.Structure):
    """`Job` of convert.c."""

    _fields_ = (
        ("from", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("brain", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        *TENSORS,
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
    job = _Job(
        rows=weight.shape[0],
        inputs=weight.shape[1],
        brain=weight.dtype == torch.bfloat16,
        bits=bits,
        **{"from": weight.data_ptr()},
        **addresses(tensors),
    )
    return not job.faulty if run_tiles(SOURCE, "stet_convert", job) else None
