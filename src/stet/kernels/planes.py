"""Codes of 4 to 8 bits as bytes, in the order in which the kernel reads them.

A group of 32 codes is eight *quads* of four neighbouring inputs. Seen as an int32, a quad's codes
are shifted and masked together; `bits` words of four bytes hold a group:

- 4 to 6 bits: word i of the first four holds quad i in its low and quad 4 + i in its high nibbles;
- 5 bits: bit j of a byte in word 4 is the fifth bit of its code in quad j;
- 6 bits: bits 2i and 2i + 1 in word 4 are the upper two of quad i, in word 5 of quad 4 + i;
- 8 bits: word i is quad i.
"""

from __future__ import annotations

import torch

GROUP = 32
"""Inputs in a group."""

_NIBBLE, _ONE, _TWO = 0x0F0F0F0F, 0x01010101, 0x03030303


def encode(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes.

    Args:
        codes: `[..., 32]` uint8, each below 2 ** bits.
        bits: 4, 5, 6 or 8.

    Returns:
        `[..., bits]` int32.
    """
    quads = codes.contiguous().view(torch.int32)
    if bits == 8:
        return quads
    words = (quads & _NIBBLE if bits > 4 else quads).unflatten(-1, (2, 4))
    low: torch.Tensor = words[..., 0, :] | words[..., 1, :] << 4
    if bits == 4:
        return low
    upper = quads >> 4 & (_ONE if bits == 5 else _TWO)
    at = torch.arange(8, dtype=torch.int32) if bits == 5 else torch.arange(0, 8, 2).int()
    # The bits of a sum of numbers without common bits are those of all of them.
    high = (upper.unflatten(-1, (-1, len(at))) << at).sum(-1, dtype=torch.int32)
    return torch.cat([low, high], -1)


def decode(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack codes: `[..., bits]` int32 to `[..., 32]` uint8."""
    if bits == 8:
        return words.contiguous().view(torch.uint8)
    low = words[..., :4]
    quads = torch.cat([low & _NIBBLE, low >> 4 & _NIBBLE], -1)
    if bits == 5:
        quads |= (words[..., 4:] >> torch.arange(8, dtype=torch.int32) & _ONE) << 4
    elif bits == 6:
        pairs = words[..., 4:, None] >> torch.arange(0, 8, 2).int() & _TWO
        quads |= pairs.flatten(-2) << 4
    return quads.view(torch.uint8)
