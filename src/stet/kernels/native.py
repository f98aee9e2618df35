"""The compiled kernel `packed.c`: what it is called with, and whether it can be had here."""

from __future__ import annotations

import ctypes
import functools
import itertools
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from stet.core.errors import CapacityError
from stet.kernels.bfloat import BfloatWeight
from stet.kernels.build import KernelError, load_library
from stet.kernels.packed import PackedWeight
from stet.kernels.threads import parallel_entry

Weight = PackedWeight | BfloatWeight
"""What the kernel multiplies with."""

SOURCE = Path(__file__).with_name("packed.c")
SMALL = 2**17
"""Multiplications that are not worth a second thread."""


class _Weight(ctypes.Structure):
    """`Weight` of packed.c."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("mins", ctypes.c_void_p),
        ("super_scales", ctypes.c_void_p),
        ("super_mins", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("parts", ctypes.c_int32),
        ("zero", ctypes.c_int32),
        ("brain", ctypes.c_int32),
    )


class Kernel:
    """The compiled library.

    Args:
        library: of packed.c.
        fast: whether its fast path is taken; tests compare it with the portable one.
    """

    def __init__(self, library: ctypes.CDLL, *, fast: bool = True) -> None:
        self._fast = fast
        self._matmul = library.stet_packed_matmul
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._matmul.argtypes = (
            *(pointer, pointer, pointer),
            *(ctypes.c_int64, number, number, number),
        )
        self._rows = library.stet_packed_rows
        self._rows.argtypes = (pointer, pointer, ctypes.c_int64, pointer, pointer, number)
        self.is_fast = bool(library.stet_packed_is_fast())
        entry = parallel_entry()
        if entry is not None:
            library.stet_packed_threads(ctypes.c_void_p(entry))

    def matmul(self, weight: DescribedWeight, x: torch.Tensor) -> torch.Tensor:
        """Multiply activations with a weight.

        Args:
            weight: a packed weight with its bias.
            x: `[tokens, inputs]`, contiguous, float32 or bfloat16.

        Returns:
            `[tokens, outputs]` of the same type.

        Raises:
            CapacityError: there is no memory.
        """
        tokens = x.shape[0]
        y = x.new_empty((tokens, weight.outputs))
        threads = torch.get_num_threads() if tokens * weight.size > SMALL else 1
        brain = x.dtype is torch.bfloat16
        places = weight.address, x.data_ptr(), y.data_ptr()
        if self._matmul(*places, tokens, brain, threads, self._fast):
            raise CapacityError("There was no memory for a product; use a smaller batch.")
        return y

    def rows(self, weight: DescribedWeight, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Compute some rows of a weight, as an embedding does.

        Args:
            weight: the weight.
            ids: `[count]` int64, numbers of rows.
            dtype: of the result, float32 or bfloat16.

        Returns:
            `[count, inputs]`.

        Raises:
            IndexError: there is no such row.
        """
        ids = ids.contiguous()
        count, inputs = ids.numel(), weight.packed.shape[1]
        y = torch.empty(count, inputs, dtype=dtype)
        memory = torch.empty(inputs)
        brain = dtype == torch.bfloat16
        places = y.data_ptr(), memory.data_ptr()
        if self._rows(weight.address, ids.data_ptr(), count, *places, brain):
            raise IndexError(
                f"ids of an embedding are below {weight.outputs}, and none is negative"
            )
        return y


class DescribedWeight:
    """A packed weight and its bias as the kernel is told of them.

    Args:
        packed: the weight; its tensors are on the CPU.
        bias: `[outputs]`, or None.

    Attributes:
        address: of the structure that the kernel reads.
        number: by which `described` knows it.
    """

    def __init__(self, packed: Weight, bias: torch.Tensor | None) -> None:
        self.packed, self.bias = packed, bias
        self.outputs, inputs = packed.shape
        self.size = self.outputs * inputs
        # Tensors that the structure points into must live as long as it does.
        self._tensors = {k: v.contiguous() for k, v in packed.tensors().items()}
        if bias is not None:
            self._tensors["bias"] = bias.float().contiguous()
        self._structure = _Weight(
            rows=self.outputs,
            inputs=inputs,
            bits=packed.bits,
            **_scaling(packed),
            **{name: tensor.data_ptr() for name, tensor in self._tensors.items()},
        )
        self.address = ctypes.addressof(self._structure)
        self.number = next(_numbers)
        described[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has a structure that points into its own tensors."""
        return DescribedWeight, (self.packed, self.bias)


_numbers = itertools.count()
described: WeakValueDictionary[int, DescribedWeight] = WeakValueDictionary()
"""Weights by their numbers, which are the same in every run, as addresses are not."""


def _scaling(weight: Weight) -> dict[str, int]:
    """How codes become values, as the structure says it."""
    if isinstance(weight, BfloatWeight):
        return {}
    halves = weight.scales if weight.super_scales is None else weight.super_scales
    brain = halves.dtype == torch.bfloat16
    return {"parts": weight.parts, "zero": weight.zero, "brain": brain}


@functools.cache
def kernel() -> Kernel | None:
    """The kernel, compiled at the first call; None where it cannot be used (`unavailable`)."""
    return None if unavailable() else _loaded()


@functools.cache
def unavailable() -> str | None:
    """Say in a few words why the kernel cannot be used here; None where it can."""
    try:
        found = _loaded()
    except KernelError as error:
        return str(error)
    return None if found.is_fast else "this processor has neither AVX2 nor AVX-512 instructions"


@functools.cache
def _loaded() -> Kernel:
    return Kernel(load_library(SOURCE))
