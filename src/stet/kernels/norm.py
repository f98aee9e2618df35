"""The compiled kernel `norm.c`: a norm in one call, for which torch takes five on a CPU."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from stet.kernels.build import FUSED_FLAGS, KernelError, load_library

SOURCE = Path(__file__).with_name("norm.c")
LANES = 16


class _Norm(ctypes.Structure):
    """`Norm` of norm.c."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("vectors", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("epsilon", ctypes.c_float),
        ("brain", ctypes.c_int32),
        ("rounds", ctypes.c_int32),
    )


def serves(weight: Tensor) -> bool:
    """Whether the kernel can be used for vectors that are multiplied by this weight."""
    return (
        weight.is_cpu
        and weight.dim() == 1
        and weight.shape[0] % LANES == 0
        and weight.dtype in (torch.float32, torch.bfloat16)
        and _library() is not None
    )


def norm(x: Tensor, weight: Tensor, epsilon: float, *, rounds: bool) -> Tensor:
    """Scale vectors to a root mean square of one, then by a weight; computed in float32.

    A vector's result is the same bits whatever others are in the call.

    Args:
        x: [N, size], float32 or bfloat16.
        weight: [size] float32, contiguous.
        epsilon: added to the mean square.
        rounds: whether numbers are rounded to the type of `x` before they are multiplied.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    count, size = x.shape
    brain = x.dtype == torch.bfloat16
    call = _Norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), count, size, epsilon, brain, rounds)
    library = _library()
    assert library is not None
    library.stet_norm(ctypes.byref(call))
    return y


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library; None where it cannot be compiled."""
    try:
        library = load_library(SOURCE, FUSED_FLAGS)
    except KernelError:
        return None
    library.stet_norm.argtypes = (ctypes.c_void_p,)
    library.stet_norm.restype = None
    return library
