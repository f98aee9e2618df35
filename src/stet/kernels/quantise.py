"""Full-precision weights rounded to 4 or 8 bits."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from stet.kernels.packed import BLOCK, PackedWeight, concatenate, groups_of, pack, row_chunks
from stet.kernels.planes import GROUP

SHRINKS = (1.0, 0.92, 0.84, 0.76)
"""Shares of a group's range that 4 bits are tried over: what is cut off is the outermost weight."""


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
    outputs, inputs = weight.shape
    rounded = _four if bits == 4 else _eight
    return concatenate(
        [rounded(_groups(weight[rows]), inputs) for rows in row_chunks(outputs, inputs)]
    )


def _groups(rows: torch.Tensor) -> torch.Tensor:
    """`[rows, inputs]` to `[rows, groups, 32]` in float32, filled up with zeros."""
    values = rows.detach().cpu().float()
    if not values.isfinite().all():
        raise ValueError("weights that are no finite numbers cannot be rounded")
    missing = groups_of(rows.shape[1]) * GROUP - rows.shape[1]
    return pad(values, (0, missing)).view(rows.shape[0], -1, GROUP)


def _eight(groups: torch.Tensor, inputs: int) -> PackedWeight:
    scales = (groups.abs().amax(-1) / 127).bfloat16()
    codes = _codes(groups, scales.float(), torch.full((), -128.0), 1, 255)
    return pack(codes, scales, bits=8, inputs=inputs, zero=128)


def _four(groups: torch.Tensor, inputs: int) -> PackedWeight:
    low, high = groups.amin(-1), groups.amax(-1)
    best_scale, best_low = torch.zeros_like(low), torch.zeros_like(low)
    best = torch.full_like(low, torch.inf)
    for shrink in SHRINKS:
        cut = (high - low) * (1 - shrink) / 2
        start = (high - low) * shrink / 15
        codes = _codes(groups, start, (low + cut) / start, 0, 15).float()
        scale, least = _line(groups, codes)
        error = torch.addcmul(least[..., None], codes, scale[..., None]).sub_(groups)
        error = error.square_().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        best_scale = torch.where(better, scale, best_scale)
        best_low = torch.where(better, least, best_low)
    scales, super_scales, exact_scales = _two_levels(best_scale)
    mins, super_mins, exact_mins = _two_levels(-best_low)
    codes = _codes(groups, exact_scales, -exact_mins / exact_scales, 0, 15)
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
    """Round each weight / scale - shift to a code; those of a scale of 0 do not matter."""
    codes = groups / scale[..., None] - shift[..., None]
    return codes.round_().nan_to_num_(0.0).clamp_(low, high).to(torch.uint8)


def _line(groups: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale and the offset with the least squared error for given codes."""
    mean_code, mean = codes.mean(-1), groups.mean(-1)
    spread = (codes * codes).mean(-1) - mean_code * mean_code
    together = (codes * groups).mean(-1) - mean_code * mean
    scale = torch.where(spread > 0, together / spread, 0.0)
    return scale, mean - scale * mean_code


def _two_levels(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values `[rows, groups]` as int8 multiples of a bfloat16 for each block of groups.

    Returns:
        The multiples, the units `[rows, blocks]`, and the values as they now are.
    """
    count = values.shape[1]
    blocks = pad(values, (0, -count % BLOCK)).unflatten(1, (-1, BLOCK))
    units = (blocks.abs().amax(-1) / 127).bfloat16()
    multiples = (blocks / units.float()[..., None]).round().nan_to_num(0.0).clamp(-127, 127)
    exact = multiples * units.float()[..., None]
    return multiples.to(torch.int8).flatten(1)[:, :count], units, exact.flatten(1)[:, :count]
