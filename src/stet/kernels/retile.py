"""The compiled code `retile.c`: blocks of GGUF files brought into the kernel's layout."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from stet.kernels.build import KernelError, load_library
from stet.kernels.threads import parallel_entry

SOURCE = Path(__file__).with_name("retile.c")


class _Job(ctypes.Structure):
    """`Job` of retile.c."""

    _fields_ = (
        ("from", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("mins", ctypes.c_void_p),
        ("super_scales", ctypes.c_void_p),
        ("super_mins", ctypes.c_void_p),
        ("next_tile", ctypes.c_int64),
    )


def retile(blocks: torch.Tensor, number: int, bits: int, tensors: dict[str, torch.Tensor]) -> bool:
    """Fill the tensors of a weight in the kernel's layout.

    Args:
        blocks: `[outputs, blocks, size]` uint8, contiguous.
        number: ggml's, of their type.
        bits: of a code.
        tensors: those of the result, by their names.

    Returns:
        Whether it was done; False where the code cannot be had.
    """
    library = _library()
    if library is None:
        return False
    rows, count, size = blocks.shape
    job = _Job(
        rows=rows,
        blocks=count,
        size=size,
        type=number,
        bits=bits,
        **{"from": blocks.data_ptr()},
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )
    entry = ctypes.c_void_p(parallel_entry())
    library.stet_retile(ctypes.byref(job), entry, torch.get_num_threads())
    return True


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return load_library(SOURCE)
    except KernelError:
        return None
