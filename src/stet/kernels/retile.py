"""The compiled code `retile.c`: blocks of GGUF files brought into the kernel's layout."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from stet.kernels.tiles import TENSORS, addresses, run_tiles

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
        *TENSORS,
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
    rows, count, size = blocks.shape
    job = _Job(
        rows=rows,
        blocks=count,
        size=size,
        type=number,
        bits=bits,
        **{"from": blocks.data_ptr()},
        **addresses(tensors),
    )
    return run_tiles(SOURCE, "stet_retile", job)
