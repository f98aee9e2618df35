"""The values of packed numbers, computed in float32 and rounded once to the dtype asked for.

In most formats a value is `scale * quant - minimum`: small integers ("quants") that share a scale,
and in some a minimum, in groups of 16 or 32. Each function below takes these apart for a batch of
blocks, uint8 [N, bytes of a block], and returns

    quants   [N, groups, numbers of a group], integers (float32 where they index a table)
    scales   [N, groups, 1], float32
    minima   [N, groups, 1], float32, or None

The layouts are those that ggml defines, which is where the names of the parts come from: `qs` and
`ql` hold the low bits of the quants, `qh` and `hmask` the high ones, `d` is the scale of a whole
block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stet.core.errors import LoadError
from stet.models.gguf.types import GgmlType

Parts = tuple[Tensor, Tensor, Tensor | None]

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 2**20
"""Numbers that are unpacked at a time: few enough to stay in a processor's cache, or near it."""


def unpack(kind: GgmlType, raw: Tensor, out: Tensor) -> None:
    """Write the values of packed numbers to `out`, converted to its dtype.

    Args:
        kind: their format.
        raw: uint8 [rows, bytes of a row], on any device.
        out: [rows, numbers of a row], contiguous; on the same device or another one.

    Raises:
        LoadError: the format needs the gguf package, which is not installed.
    """
    plain = _PLAIN.get(kind.name)
    if plain is not None:
        out.view(-1).copy_(raw.reshape(-1).view(plain))
        return
    blocks, flat = raw.reshape(-1, kind.size), out.view(-1, kind.block)
    step = max(_CHUNK // kind.block, 1)
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        flat[start : start + step] = _values(kind, part).view(-1, kind.block)


def _values(kind: GgmlType, blocks: Tensor) -> Tensor:
    """The values of blocks in float32."""
    taken_apart = _FORMATS.get(kind.name)
    if taken_apart is None:
        return _by_table(kind, blocks)
    quants, scales, minima = taken_apart(blocks)
    values = quants.to(torch.float32).mul_(scales)
    return values if minima is None else values.sub_(minima)


def _by_table(kind: GgmlType, blocks: Tensor) -> Tensor:
    """The values of a rare format, most of which look their values up in large tables."""
    try:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise LoadError(
            f"Weights in the format {kind.name} need the gguf package: "
            "pip install 'stet-decoding[gguf]'."
        ) from error
    found = dequantize(blocks.cpu().numpy(), GGMLQuantizationType(kind.id))
    return torch.from_numpy(found).to(blocks.device)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 number at a place of each block: float32 [N, 1, 1]."""
    bits = blocks[:, start : start + 2].contiguous()
    return bits.view(torch.float16).to(torch.float32).unsqueeze(-1)


def _signed(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int8)


def _fields(packed: Tensor, bits: int) -> Tensor:
    """The fields of `bits` bits of each byte, lowest first: [..., M] to [..., 8 / bits, M]."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    fields: Tensor = (packed.unsqueeze(-2) >> shifts.unsqueeze(-1)) & (2**bits - 1)
    return fields


def _bits(packed: Tensor) -> Tensor:
    """The bits of 4 bytes one after the other: [N, 4] to [N, 32]."""
    words = packed.contiguous().view(torch.int32)
    places = torch.arange(32, dtype=torch.int32, device=packed.device)
    return (words >> places).to(torch.uint8) & 1


def _groups(values: Tensor, width: int) -> Tensor:
    return values.reshape(values.shape[0], -1, width)


# Blocks of 32, with one scale


def _q4_0(blocks: Tensor) -> Parts:
    quants = _groups(_fields(blocks[:, 2:], 4), 32)
    return _signed(quants) - 8, _half(blocks, 0), None


def _q4_1(blocks: Tensor) -> Parts:
    return _groups(_fields(blocks[:, 4:], 4), 32), _half(blocks, 0), -_half(blocks, 2)


def _five_bits(qs: Tensor, qh: Tensor) -> Tensor:
    return _groups(_fields(qs, 4), 32) | (_bits(qh).unsqueeze(1) << 4)


def _q5_0(blocks: Tensor) -> Parts:
    quants = _five_bits(blocks[:, 6:], blocks[:, 2:6])
    return _signed(quants) - 16, _half(blocks, 0), None


def _q5_1(blocks: Tensor) -> Parts:
    quants = _five_bits(blocks[:, 8:], blocks[:, 4:8])
    return quants, _half(blocks, 0), -_half(blocks, 2)


def _q8_0(blocks: Tensor) -> Parts:
    return _signed(_groups(blocks[:, 2:], 32)), _half(blocks, 0), None


# Blocks of 256 in groups, with a scale for each group


def _q2_k(blocks: Tensor) -> Parts:
    scales, minima = (blocks[:, :16] & 15).unsqueeze(-1), (blocks[:, :16] >> 4).unsqueeze(-1)
    quants = _groups(_fields(_groups(blocks[:, 16:80], 32), 2), 16)
    return quants, _half(blocks, 80) * scales, _half(blocks, 82) * minima


def _q3_k(blocks: Tensor) -> Parts:
    hmask, qs, packed = blocks[:, :32], _groups(blocks[:, 32:96], 32), blocks[:, 96:108]
    low = _fields(packed[:, :8], 4).flatten(1)
    high = _fields(packed[:, 8:], 2).flatten(1)
    scales = (_signed(low | (high << 4)) - 32).unsqueeze(-1)
    # A bit that is not set takes 4 away.
    quants = _signed(_fields(qs, 2).flatten(1) | (_fields(hmask, 1).flatten(1) << 2)) - 4
    return _groups(quants, 16), _half(blocks, 108) * scales, None


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima [N, 8, 1] of Q4_K and Q5_K, 6 bits each, from [N, 12]."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, (rest & 15) | (first >> 6 << 4)], dim=1)
    minima = torch.cat([second & 63, (rest >> 4) | (second >> 6 << 4)], dim=1)
    return scales.unsqueeze(-1), minima.unsqueeze(-1)


def _q4_k(blocks: Tensor) -> Parts:
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    quants = _groups(_fields(_groups(blocks[:, 16:], 32), 4), 32)
    return quants, _half(blocks, 0) * scales, _half(blocks, 2) * minima


def _q5_k(blocks: Tensor) -> Parts:
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    low = _groups(_fields(_groups(blocks[:, 48:], 32), 4), 32)
    quants = low | (_fields(blocks[:, 16:48], 1) << 4)
    return quants, _half(blocks, 0) * scales, _half(blocks, 2) * minima


def _q6_k(blocks: Tensor) -> Parts:
    low = _fields(_groups(blocks[:, :128], 64), 4).flatten(1)
    high = _fields(_groups(blocks[:, 128:192], 32), 2).flatten(1)
    quants = _signed(low | (high << 4)) - 32
    scales = _signed(blocks[:, 192:208]).unsqueeze(-1)
    return _groups(quants, 16), _half(blocks, 208) * scales, None


# Quants that are looked up

_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The values that four bits stand for in IQ4_NL and IQ4_XS, as ggml defines them."""


def _looked_up(indices: Tensor) -> Tensor:
    table = torch.tensor(_IQ4, dtype=torch.float32, device=indices.device)
    return table[indices.to(torch.int32)]


def _iq4_nl(blocks: Tensor) -> Parts:
    return _looked_up(_groups(_fields(blocks[:, 2:], 4), 32)), _half(blocks, 0), None


def _iq4_xs(blocks: Tensor) -> Parts:
    low = _fields(blocks[:, 4:8], 4).transpose(1, 2).flatten(1)
    high = _fields(blocks[:, 2:4], 2).transpose(1, 2).flatten(1)
    scales = (_signed(low | (high << 4)) - 32).unsqueeze(-1)
    quants = _groups(_fields(_groups(blocks[:, 8:], 16), 4), 32)
    return _looked_up(quants), _half(blocks, 0) * scales, None


_FORMATS: dict[str, Callable[[Tensor], Parts]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
