"""Full-precision weights rounded to 4 or 8 bits.

`convert.c` does it in a hundredth of the time, in the same operations in the same order, so that a
weight is rounded to the same values on a machine without a compiler.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from stet.kernels.convert import convert
from stet.kernels.packed import (
    BLOCK,
    ROWS,
    PackedWeight,
    concatenate,
    groups_of,
    pack,
    row_chunks,
)
from stet.kernels.planes import GROUP

SHRINKS = (1.0, 0.92, 0.84, 0.76)
"""Shares of a group's range that 4 bits are tried over: what is cut off is the outermost weight."""
_KNOWN = (torch.float32, torch.bfloat16)


def quantise(weight: torch.Tensor, bits: int = 4) -> PackedWeight:
    """Round a weight, 32 inputs at a time.

    With 8 bits a group has a scale; zero stays zero. With 4 bits it has a scale and a min, chosen
    for the least squared error; both are 7-bit multiples of a bfloat16 for each 256 inputs, 4.625
    bits a weight.

    Args:
        weight: `[outputs, inputs]`, of any floating type.
        bits: 4 or 8.

    Raises:
        ValueError: other bits, no matrix, or weights that are no finite numbers.
    """
    if bits not in (4, 8) or weight.dim() != 2 or not weight.numel():
        raise ValueError("a matrix of weights is rounded to 4 or 8 bits")
    plain = weight.detach().cpu()
    if plain.dtype not in _KNOWN:
        plain = plain.float()
    plain = plain.contiguous()
    packed = _empty(plain.shape[0], plain.shape[1], bits)
    finite = convert(plain, bits, packed.tensors())
    if finite is None:
        finite = bool(plain.isfinite().all())
        packed = _rounded(plain, bits) if finite else packed
    if not finite:
        raise ValueError("weights that are no finite numbers cannot be rounded")
    return packed


def _empty(outputs: int, inputs: int, bits: int) -> PackedWeight:
    """A weight whose tensors have their sizes, and no values yet."""
    tiles, groups = -(-outputs // ROWS), groups_of(inputs)
    codes = torch.empty(tiles, groups, bits, ROWS, dtype=torch.int32)
    if bits == 8:
        scales = torch.empty(tiles, groups, ROWS, dtype=torch.bfloat16)
        return PackedWeight(8, (outputs, inputs), 128, codes, scales)
    small = [torch.empty(tiles, groups, ROWS, dtype=torch.int8) for _ in range(2)]
    halves = [torch.empty(tiles, -(-groups // BLOCK), ROWS, dtype=torch.bfloat16) for _ in range(2)]
    return PackedWeight(4, (outputs, inputs), 0, codes, *small, *halves)


def _rounded(weight: torch.Tensor, bits: int) -> PackedWeight:
    """Round through torch, in pieces."""
    outputs, inputs = weight.shape
    rounded = _four if bits == 4 else _eight
    return concatenate(
        [rounded(_groups(weight[rows]), inputs) for rows in row_chunks(outputs, inputs)]
    )


def _groups(rows: torch.Tensor) -> torch.Tensor:
    """`[rows, inputs]` to `[rows, groups, 32]` in float32, filled up with zeros."""
    missing = groups_of(rows.shape[1]) * GROUP - rows.shape[1]
    return pad(rows.float(), (0, missing)).view(rows.shape[0], -1, GROUP)


def _eight(groups: torch.Tensor, inputs: int) -> PackedWeight:
    scales = (groups.abs().amax(-1) / 127).bfloat16()
    codes = _codes(groups, scales.float(), torch.full((), -128.0), 1, 255).to(torch.uint8)
    return pack(codes, scales, bits=8, inputs=inputs, zero=128)


def _four(groups: torch.Tensor, inputs: int) -> PackedWeight:
    low, high = groups.amin(-1), groups.amax(-1)
    mean = _total(groups) / GROUP
    best_scale, best_low = torch.zeros_like(low), torch.zeros_like(low)
    best = torch.full_like(low, torch.inf)
    for share in SHRINKS:
        shrink = torch.tensor(share)
        cut = (high - low) * (1 - shrink) / 2
        start = (high - low) * shrink / 15
        codes = _codes(groups, start, (low + cut) / start, 0, 15)
        mean_code = _total(codes) / GROUP
        spread = _total(codes * codes) / GROUP - mean_code * mean_code
        together = _total(codes * groups) / GROUP - mean_code * mean
        scale = torch.where(spread > 0, together / spread, 0.0)
        least = mean - scale * mean_code
        error = _total((codes * scale[..., None] + least[..., None] - groups).square())
        better = error < best
        best = torch.where(better, error, best)
        best_scale = torch.where(better, scale, best_scale)
        best_low = torch.where(better, least, best_low)
    scales, super_scales, exact_scales = _two_levels(best_scale)
    mins, super_mins, exact_mins = _two_levels(-best_low)
    codes = _codes(groups, exact_scales, -exact_mins / exact_scales, 0, 15).to(torch.uint8)
    return pack(
        codes,
        scales,
        bits=4,
        inputs=inputs,
        mins=mins,
        super_scales=super_scales,
        super_mins=super_mins,
    )


def _codes(
    groups: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Round each weight / scale - shift to a code; those of a scale of 0 are 0."""
    codes = (groups / scale[..., None] - shift[..., None]).round_()
    codes = codes.nan_to_num_(low).clamp_(low, high)
    return torch.where(scale[..., None] == 0, 0.0, codes)


def _total(values: torch.Tensor) -> torch.Tensor:
    """The sums of the last dimension, by adding halves until one number is left."""
    while values.shape[-1] > 1:
        first, second = values.chunk(2, -1)
        values = first + second
    return values.squeeze(-1)


def _two_levels(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values `[rows, groups]` as int8 multiples of a bfloat16 for each block of groups.

    Returns:
        The multiples, the units `[rows, blocks]`, and the values as they now are.
    """
    count = values.shape[1]
    blocks = pad(values, (0, -count % BLOCK)).unflatten(1, (-1, BLOCK))
    units = (blocks.abs().amax(-1) / 127).bfloat16()
    wide = units.float()[..., None]
    multiples = (blocks / wide).round().nan_to_num(0.0).clamp(-127, 127)
    multiples = torch.where(wide == 0, 0.0, multiples)
    exact = multiples * wide
    return multiples.to(torch.int8).flatten(1)[:, :count], units, exact.flatten(1)[:, :count]
