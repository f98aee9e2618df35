"""Layers of packed weights: what multiplies with one, and an embedding of one."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import nn
from torch.nn.functional import linear

from stet.kernels.native import DescribedWeight, kernel, unavailable
from stet.kernels.packed import PackedWeight


class PackedLinear(nn.Module):
    """Multiplies with a packed weight on the CPU, as `nn.Linear` does with a plain one.

    Activations are rounded to int8 with a scale for each token and each 32 inputs. A token's
    output is the same bits whatever other tokens are in the call and however many threads there
    are. A token with a value that is no finite number gets outputs that are none. There are no
    gradients.

    Where the kernel cannot be used (`stet.kernels.unavailable` says why) a warning says so once,
    and the layer unpacks its weights at the first call and keeps them, in the type of its input.

    Args:
        weight: the weight, on the CPU.
        bias: `[outputs]` of any floating type, or None.
    """

    def __init__(self, weight: PackedWeight, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.described = DescribedWeight(weight, bias)
        _register(self, weight, bias)
        self._plain: torch.Tensor | None = None

    def put(self, weight: PackedWeight, bias: torch.Tensor | None) -> None:
        """Take other tensors of the same values, such as views of a larger weight."""
        self.described = DescribedWeight(weight, bias)
        _register(self, weight, bias)

    @property
    def packed(self) -> PackedWeight:
        """The weight."""
        return self.described.packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply.

        Args:
            x: `[..., inputs]`; other types than float32 and bfloat16 pass through float32.

        Returns:
            `[..., outputs]` of the same type.
        """
        found = kernel()
        if found is None:
            return self._unpacked(x)
        known = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
        y = found.matmul(self.described, known.reshape(-1, self.in_features).contiguous())
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def _unpacked(self, x: torch.Tensor) -> torch.Tensor:
        if self._plain is None or self._plain.dtype != x.dtype:
            _warn_once(
                f"Packed weights are unpacked, which takes time and memory: {unavailable()}."
            )
            self._plain = self.packed.dequantise(x.dtype)
        own = self.described.bias
        return linear(x, self._plain, None if own is None else own.to(x.dtype))


class PackedEmbedding(nn.Module):
    """Looks tokens up in a packed weight, as `nn.Embedding` does in a plain one.

    Args:
        weight: the weight, a row for each token.
        dtype: of what it returns.
    """

    def __init__(self, weight: PackedWeight, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.packed = weight
        self.dtype = dtype
        _register(self, weight, None)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of some tokens, `[*ids.shape, inputs]`."""
        return self.packed.rows(ids, self.dtype)


def _register(module: nn.Module, weight: PackedWeight, bias: torch.Tensor | None) -> None:
    """Name a layer's tensors, so that they are counted, saved and told apart as weights are."""
    for name, tensor in weight.tensors().items():
        module.register_buffer(name, tensor)
    module.register_buffer("bias", bias)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
