"""Tensors of GGUF files as packed weights, value for value.

`retile.c` does it in a fraction of the time. Types are named as in ggml. Numbers in a block are
little-endian; a `half` is a float16. Of blocks of 256 weights, those with a `K` in their name, the
scales of 32 weights (16 in Q6_K) are small integers, multiples of the block's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from stet.kernels.packed import ROWS, PackedWeight, concatenate, pack, row_chunks
from stet.kernels.planes import GROUP
from stet.kernels.retile import retile

Unpacker = Callable[[torch.Tensor], dict[str, Any]]


class GgmlType(NamedTuple):
    """A type of blocks.

    Attributes:
        number: of the type in a file.
        weights: in a block.
        size: of a block in bytes.
        bits: of a code.
        zero: the code that stands for 0; 0 where there are mins.
        scales: of a block.
        mins: whether each 32 weights have a min.
        unpack: from blocks `[outputs, blocks, size]` to what `pack` takes.
    """

    number: int
    weights: int
    size: int
    bits: int
    zero: int
    scales: int
    mins: bool
    unpack: Unpacker


def pack_ggml(
    kind: str | int, raw: bytes | np.ndarray | torch.Tensor, shape: tuple[int, int]
) -> PackedWeight:
    """Pack a tensor of a GGUF file; its weights have the same values, rounded to float32 once.

    Args:
        kind: the name or number of its type: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.
        raw: its bytes.
        shape: outputs, inputs.

    Raises:
        ValueError: a type that is not one of these, or the wrong number of bytes for the shape.
    """
    found = next((t for name, t in TYPES.items() if kind in (name, t.number)), None)
    if found is None:
        raise ValueError(f"ggml's type {kind} cannot be packed; those that can: {', '.join(TYPES)}")
    outputs, inputs = shape
    blocks, left = divmod(inputs, found.weights)
    data = _as_bytes(raw)
    if left or data.numel() != outputs * blocks * found.size:
        raise ValueError(f"{data.numel()} bytes of ggml's type {kind} are no matrix of {shape}")
    rows = data.view(outputs, blocks, found.size)
    packed = _empty(found, outputs, blocks)
    if retile(rows, found.number, found.bits, packed.tensors()):
        return packed
    return concatenate(
        [
            pack(bits=found.bits, zero=found.zero, inputs=inputs, **found.unpack(rows[part]))
            for part in row_chunks(outputs, inputs)
        ]
    )


def _empty(kind: GgmlType, outputs: int, blocks: int) -> PackedWeight:
    """A weight whose tensors have their sizes, and no values yet."""
    tiles, each = -(-outputs // ROWS), kind.weights // GROUP
    in_two = each > 1  # small integers, multiples of the block's own half

    def numbers(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(tiles, blocks * count, ROWS, dtype=dtype)

    small = torch.int8 if in_two else torch.float16
    return PackedWeight(
        bits=kind.bits,
        shape=(outputs, blocks * kind.weights),
        zero=kind.zero,
        codes=torch.empty(tiles, blocks * each, kind.bits, ROWS, dtype=torch.int32),
        scales=numbers(kind.scales, small),
        mins=numbers(each, small) if kind.mins else None,
        super_scales=numbers(1, torch.float16) if in_two else None,
        super_mins=numbers(1, torch.float16) if in_two and kind.mins else None,
    )


def _as_bytes(raw: bytes | np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(raw, torch.Tensor):
        return raw.contiguous().view(torch.uint8).flatten()
    array = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else raw
    array = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    with warnings.catch_warnings():
        # A file that is mapped into memory is not writable; nothing is written to it.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    return blocks[..., at : at + 2].contiguous().view(torch.float16).squeeze(-1)


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """`[..., n]` bytes to `[..., 2, n]`: all low nibbles, then all high ones."""
    return torch.stack([data & 15, data >> 4], -2)


def _bits(data: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """`[..., n]` bytes to `[..., count, n]`: fields of `width` bits, from the lowest."""
    at = torch.arange(0, width * count, width, dtype=torch.uint8)
    return data.unsqueeze(-2) >> at.unsqueeze(-1) & (1 << width) - 1


def _fifth_bits(data: torch.Tensor) -> torch.Tensor:
    """Four bytes with a bit for each of 32 weights, as 0 or 16."""
    return _bits(data, 1, 8).transpose(-1, -2).flatten(-2) << 4


def _q4_0(blocks: torch.Tensor) -> dict[str, Any]:
    """A half scale; 16 bytes: weights 0 to 15 in low, 16 to 31 in high nibbles."""
    return {"codes": _nibbles(blocks[..., 2:]).flatten(-2), "scales": _half(blocks, 0)}


def _q4_1(blocks: torch.Tensor) -> dict[str, Any]:
    """A half scale and a half that is added; codes as in Q4_0."""
    codes = _nibbles(blocks[..., 4:]).flatten(-2)
    return {"codes": codes, "scales": _half(blocks, 0), "mins": -_half(blocks, 2)}


def _q5_0(blocks: torch.Tensor) -> dict[str, Any]:
    """A half scale; the fifth bits; the rest as in Q4_0."""
    codes = _nibbles(blocks[..., 6:]).flatten(-2) | _fifth_bits(blocks[..., 2:6])
    return {"codes": codes, "scales": _half(blocks, 0)}


def _q5_1(blocks: torch.Tensor) -> dict[str, Any]:
    """As Q5_0, with a half that is added."""
    codes = _nibbles(blocks[..., 8:]).flatten(-2) | _fifth_bits(blocks[..., 4:8])
    return {"codes": codes, "scales": _half(blocks, 0), "mins": -_half(blocks, 2)}


def _q8_0(blocks: torch.Tensor) -> dict[str, Any]:
    """A half scale; 32 signed bytes."""
    return {"codes": blocks[..., 2:] ^ 128, "scales": _half(blocks, 0)}


def _scales_and_mins(data: torch.Tensor) -> dict[str, torch.Tensor]:
    """Twelve bytes of eight scales and eight mins of 6 bits, in four columns.

    The first four of each are the low 6 bits of bytes 0 to 3 and 4 to 7. Of the others, the low
    4 bits are the nibbles of bytes 8 to 11, and the upper 2 those left over of bytes 0 to 7.
    """
    first, second, third = data[..., :4], data[..., 4:8], data[..., 8:]
    scales = torch.cat([first & 63, third & 15 | first >> 6 << 4], -1)
    mins = torch.cat([second & 63, third >> 4 | second >> 6 << 4], -1)
    return {"scales": scales.flatten(1).view(torch.int8), "mins": mins.flatten(1).view(torch.int8)}


def _q4_k(blocks: torch.Tensor) -> dict[str, Any]:
    """Half scale and min; twelve bytes of theirs; 128 bytes: 32 hold 64 weights, low half first."""
    codes = _nibbles(blocks[..., 16:].unflatten(-1, (4, 32)))
    return {
        "codes": codes.flatten(1, -2),
        **_scales_and_mins(blocks[..., 4:16]),
        "super_scales": _half(blocks, 0),
        "super_mins": _half(blocks, 2),
    }


def _q5_k(blocks: torch.Tensor) -> dict[str, Any]:
    """As Q4_K, with 32 bytes between: bit g is the fifth bit of group g's weight."""
    low = _nibbles(blocks[..., 48:].unflatten(-1, (4, 32))).flatten(-3, -2)
    codes = low | _bits(blocks[..., 16:48], 1, 8) << 4
    return {
        "codes": codes.flatten(1, -2),
        **_scales_and_mins(blocks[..., 4:16]),
        "super_scales": _half(blocks, 0),
        "super_mins": _half(blocks, 2),
    }


def _q6_k(blocks: torch.Tensor) -> dict[str, Any]:
    """128 bytes of low nibbles, 64 of upper bits, 16 signed scales, a half scale.

    Half of it is 128 weights: nibbles in 64 bytes, low ones first; upper bits in 32, pair by pair.
    """
    low = _nibbles(blocks[..., :128].unflatten(-1, (2, 64))).unflatten(-1, (2, 32)).flatten(-3, -2)
    high = _bits(blocks[..., 128:192].unflatten(-1, (2, 32)), 2, 4)
    return {
        "codes": (low | high << 4).flatten(1, -2),
        "scales": blocks[..., 192:208].flatten(1).view(torch.int8),
        "super_scales": _half(blocks, 208),
    }


TYPES = {
    "Q4_0": GgmlType(2, 32, 18, 4, 8, 1, False, _q4_0),
    "Q4_1": GgmlType(3, 32, 20, 4, 0, 1, True, _q4_1),
    "Q5_0": GgmlType(6, 32, 22, 5, 16, 1, False, _q5_0),
    "Q5_1": GgmlType(7, 32, 24, 5, 0, 1, True, _q5_1),
    "Q8_0": GgmlType(8, 32, 34, 8, 128, 1, False, _q8_0),
    "Q4_K": GgmlType(12, 256, 144, 4, 0, 8, True, _q4_k),
    "Q5_K": GgmlType(13, 256, 176, 5, 0, 8, True, _q5_k),
    "Q6_K": GgmlType(14, 256, 210, 6, 32, 16, False, _q6_k),
}
"""The types that can be packed, by their names."""
