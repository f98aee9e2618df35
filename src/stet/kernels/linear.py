"""A linear layer of packed weights."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import nn
from torch.nn.functional import linear

from stet.kernels.native import DescribedWeight, Weight, kernel, unavailable


class PackedLinear(nn.Module):
    """Multiplies with a packed weight on the CPU, as `nn.Linear` does with a plain one.

    Activations are rounded to int8 with a scale for each token and each 32 inputs, or to bfloat16
    where weights are; sums are float32. A token's output is the same bits whatever other tokens are
    in the call and however many threads there are. A token with a value that is no finite number
    gets outputs that are none. There are no gradients.

    Where the kernel cannot be used (`stet.kernels.unavailable` says why) a warning says so once,
    and the layer unpacks its weights at the first call and keeps them, in the type of its input.

    Args:
        weight: the weight, on the CPU.
        bias: `[outputs]` of any floating type, or None.
    """

    def __init__(self, weight: Weight, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.described = DescribedWeight(weight, bias)
        self._plain: torch.Tensor | None = None

    @property
    def packed(self) -> Weight:
        """The weight."""
        return self.described.packed

    @property
    def bias(self) -> torch.Tensor | None:
        """What is added to the outputs."""
        return self.described.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply.

        Args:
            x: `[..., inputs]`; other types than float32 and bfloat16 pass through float32.

        Returns:
            `[..., outputs]` of the same type.
        """
        found = kernel(self.packed.bits)
        if found is None:
            return self._unpacked(x)
        known = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
        y = found.matmul(self.described, known.reshape(-1, self.in_features).contiguous())
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def _unpacked(self, x: torch.Tensor) -> torch.Tensor:
        if self._plain is None or self._plain.dtype != x.dtype:
            reason = unavailable(self.packed.bits)
            _warn_once(f"Packed weights are unpacked, which takes time and memory: {reason}.")
            self._plain = self.packed.dequantise(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return linear(x, self._plain, bias)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
