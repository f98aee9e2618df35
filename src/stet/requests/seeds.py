"""Seeds of many requests from one seed: requests that differ in any index share no randomness.

A sum would not do: prompt 1 of seed 0 and prompt 0 of seed 1 would then have the same seed.
"""

from __future__ import annotations

import secrets

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_OWN = 0xD1B54A32D192ED03
"""Separates these hashes from those that make a request's random numbers from its seed."""


def mixed(seed: int, *places: int) -> int:
    """Hash a seed and indices to a new seed.

    Each number goes through the splitmix64 finaliser (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014) on top of those before it.

    Args:
        seed: 64 bits, signed or not.
        *places: 64 bits each, such as the index of a prompt, or a question and a sample.

    Returns:
        63 bits, which are a valid seed both as a signed and as an unsigned number.
    """
    state = _finalise((seed ^ _OWN) + _GOLDEN)
    for place in places:
        state = _finalise(state + (place & _MASK) * _GOLDEN + _OWN)
    return state >> 1


def drawn() -> int:
    """Draw a seed of 63 bits from the system's source of randomness."""
    return secrets.randbits(63)


def seed_of(seed: int, index: int) -> int:
    """The seed of one of many requests that were given one; the first has that itself."""
    return mixed(seed, index) if index else seed


def seeds_of(seed: int | None, count: int, *, sampled: bool) -> list[int]:
    """The seed of each of many requests.

    Args:
        seed: what they were given; None: nothing.
        count: how many.
        sampled: whether anything is drawn by them; otherwise they need none.
    """
    first = (drawn() if sampled else 0) if seed is None else seed
    return [seed_of(first, index) for index in range(count)]


def _finalise(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
