"""Uniform random numbers that depend on a request alone.

Each number is a hash of (seed, round, slot). A request therefore gets the same numbers whatever its
batch-mates are, on any device, with no generator state to keep or to rewind. The round is counted
per sequence: keying by token position instead would hand a position that is drafted again after a
rejection the number that was just used for it, which correlates the draws.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """Convert the 64-bit pattern of `value` to torch's signed integer."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


# Constants of the splitmix64 finaliser (Steele, Lea and Flood, 2014).
_STEP = _signed(0x9E3779B97F4A7C15)
_MIX_A = _signed(0xBF58476D1CE4E5B9)
_MIX_B = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right logically; torch's own shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_A
    x = (x ^ _shift(x, 27)) * _MIX_B
    return x ^ _shift(x, 31)


def uniforms(seeds: Tensor, rounds: Tensor, first_slot: int, count: int) -> Tensor:
    """Compute uniform random numbers for a batch.

    Args:
        seeds: [B] int64, the requests' seeds.
        rounds: [B] int64, each sequence's own round counter.
        first_slot: where the consecutive slots begin; each purpose within a round has its own.
        count: how many consecutive slots.

    Returns:
        [B, count] float32 in [0, 1), multiples of 2**-24.
    """
    slots = torch.arange(first_slot, first_slot + count, device=seeds.device)
    keys = _mix(_mix(seeds + _STEP) + rounds * _STEP)
    bits = _mix(_mix(keys[:, None] + slots * _STEP))
    return _shift(bits, 40).float() * 2.0**-24
