"""The compiled kernel `attention.c`: a few new tokens attend to a cache of keys and values."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stet.core.errors import CapacityError
from stet.core.model import LayerShape
from stet.core.row import PAGE
from stet.kernels.build import FUSED_FLAGS, KernelError, load_library
from stet.kernels.threads import parallel_entry

SOURCE = Path(__file__).with_name("attention.c")
LANES = 16
WIDEST = 160
"""Tokens of a row in a pass, at most: blocks and steps. Wider ones are prefills."""

FASTER = 16
"""Up to so many tokens of a row the kernel is faster than torch's attention."""

SMALL = 2**20
"""Multiplications that are not worth a second thread."""


class _Pass(ctypes.Structure):
    """`Pass` of attention.c."""

    _fields_ = (
        ("pages", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("reach", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    """`Layer` of attention.c."""

    _fields_ = (
        ("query", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("query_row", ctypes.c_int64),
        ("query_token", ctypes.c_int64),
        ("query_head", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("key_heads", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("brain", ctypes.c_int32),
    )


def serves(layers: Sequence[LayerShape]) -> bool:
    """Whether the kernel can be used for all attention layers of a model."""
    return _library() is not None and all(
        layer.device.type == "cpu"
        and layer.dtype in (torch.float32, torch.bfloat16)
        and layer.key_size == layer.value_size
        and layer.key_size % LANES == 0
        for layer in layers
    )


class NativePass:
    """The attention of one pass; called once for each layer.

    A query's result is the same bits however many other tokens and rows are in the pass.

    Args:
        pages: of B rows of the cache, in the order of their tokens.
        starts: the position of each row's first new token.
        ends: the position after its last one.
        width: T, new tokens of a row, pads included.
    """

    __slots__ = ("_held", "_layer", "_pass", "_places", "_seen", "width")

    def __init__(
        self,
        pages: Sequence[Sequence[int]],
        starts: Sequence[int],
        ends: Sequence[int],
        width: int,
    ) -> None:
        self.width = width
        batch = len(pages)
        self._seen = width * batch * max(ends)
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        held = all(len(own) * PAGE >= end for own, end in zip(pages, ends, strict=True))
        if not (held and 0 <= min(counts) <= max(counts) <= width and min(starts) >= 0):
            raise ValueError(f"{batch} rows take no {counts} tokens of {width} from {starts} on")
        reach = max(map(len, pages))
        numbers = [*starts, *counts]
        for own in pages:
            numbers += own
            numbers += [0] * (reach - len(own))
        self._held = torch.tensor(numbers)
        first, size = self._held.data_ptr(), batch * self._held.itemsize
        self._pass = _Pass(first + 2 * size, first, first + size, batch, width, reach)
        self._layer = _Layer()
        self._places = ctypes.byref(self._pass), ctypes.byref(self._layer)

    def __call__(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Attend in one layer.

        Args:
            query: [B, heads, T, size], rotated.
            keys: [slots, key heads, size], the cache, with the pass's own keys.
            values: likewise.
            scaling: factor of the scores; 1 / sqrt(size) when None.
            window: a query sees its own position and the `window - 1` before it; None: all.
            softcap: scores are squashed to (-softcap, softcap) by tanh; None: no cap.

        Returns:
            [B, T, heads, size]; zeros for pads.

        Raises:
            CapacityError: there is no memory.
            TypeError: queries and keys are of different types.
        """
        if query.dtype != keys.dtype:
            raise TypeError(f"queries of {query.dtype} cannot attend to keys of {keys.dtype}")
        if query.stride(-1) != 1:
            query = query.contiguous()
        batch, heads, width, size = query.shape
        out = torch.empty((batch, width, heads, size), dtype=query.dtype)
        layer = self._layer
        layer.query, layer.keys, layer.values, layer.out = (
            query.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
        )
        layer.query_row, layer.query_head, layer.query_token, _ = query.stride()
        layer.heads, layer.key_heads, layer.size = heads, keys.shape[1], size
        layer.window = window or 0
        layer.scale = size**-0.5 if scaling is None else scaling
        layer.softcap = softcap or 0.0
        layer.brain = query.dtype == torch.bfloat16
        library = _library()
        assert library is not None
        small = self._seen * heads * size < SMALL
        if library.stet_attend(*self._places, 1 if small else torch.get_num_threads()):
            raise CapacityError("There was no memory for attention; use a smaller batch.")
        return out


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library; None where it cannot be compiled."""
    try:
        library = load_library(SOURCE, FUSED_FLAGS)
    except KernelError:
        return None
    library.stet_attend.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    entry = parallel_entry()
    if entry is not None:
        library.stet_attention_threads(ctypes.c_void_p(entry))
    return library
