"""Seeds of many requests out of one: requests that differ in any place share no randomness.

A sum would not do: prompt 1 of seed 0 and prompt 0 of seed 1 would then be the same request.
"""

from __future__ import annotations

import secrets

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_OWN = 0xD1B54A32D192ED03
"""Sets these hashes apart from those that make a request's random numbers of its seed."""


def mixed(seed: int, *places: int) -> int:
    """A seed of its own for each list of places: a hash that nobody needs to be able to undo.

    Each number goes through the splitmix64 finaliser (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014) on top of those before it.

    Args:
        seed: 64 bits, signed or not.
        *places: 64 bits each, such as the index of a prompt, or a question and a sample.

    Returns:
        63 bits, so that it is a seed again whatever the reader's idea of a sign.
    """
    state = _finalise((seed ^ _OWN) + _GOLDEN)
    for place in places:
        state = _finalise(state + (place & _MASK) * _GOLDEN + _OWN)
    return state >> 1


def drawn() -> int:
    """A seed that nobody chose, of 63 bits from the system's source of randomness."""
    return secrets.randbits(63)


def _finalise(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
