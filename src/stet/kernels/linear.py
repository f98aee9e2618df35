"""Layers of packed weights: what multiplies with one, and an embedding of one."""

from __future__ import annotations

import functools
import warnings

import torch
from torch.nn.functional import linear

from stet.kernels.kept import KeptWeight
from stet.kernels.native import DescribedWeight, Weight, described, kernel, unavailable


class PackedLinear(KeptWeight):
    """Multiplies with a packed weight on the CPU, as `nn.Linear` does with a plain one.

    Activations are rounded to int8 with a scale for each token and each 32 inputs, or to bfloat16
    where weights are; sums are float32. A token's output is the same bits whatever other tokens are
    in the call and however many threads there are. A token with a value that is no finite number
    gets outputs that are none. There are no gradients. `torch.compile` takes it as one operation.

    Where the kernel cannot be used (`stet.kernels.unavailable` says why) a warning says so once,
    and the layer unpacks its weights and multiplies through torch; the above does not hold then.

    Args:
        weight: the weight, on the CPU.
        bias: `[outputs]` of any floating type, or None.
        dtype: of the unpacked weights, where they are needed.
    """

    def __init__(
        self,
        weight: Weight,
        bias: torch.Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(weight, bias, dtype)
        self.out_features, self.in_features = weight.shape
        self.described = DescribedWeight(weight, bias)
        self._plain: torch.Tensor | None = None
        if kernel() is None:
            reason = unavailable()
            _warn_once(f"Packed weights are unpacked, which takes time and memory: {reason}.")
            self._plain = weight.dequantise(dtype)

    def put(self, weight: Weight, bias: torch.Tensor | None) -> None:
        """Take other tensors of the same values, such as views of a larger weight."""
        self.keep(weight, bias)
        self.described = DescribedWeight(weight, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply.

        Args:
            x: `[..., inputs]`; other types than float32 and bfloat16 pass through float32.

        Returns:
            `[..., outputs]` of the same type.
        """
        if self._plain is not None:
            own = self.described.bias
            bias = None if own is None else own.to(self._plain.dtype)
            return linear(x.to(self._plain.dtype), self._plain, bias).to(x.dtype)
        if x.dtype not in (torch.float32, torch.bfloat16):
            return self.forward(x.float()).to(x.dtype)
        flat = (x if x.dim() == 2 else x.reshape(-1, self.in_features)).contiguous()
        if torch.compiler.is_dynamo_compiling():
            y: torch.Tensor = _traced(flat, self.described.number, self.out_features)
        else:
            y = _multiply(flat, self.described)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)


class PackedEmbedding(KeptWeight):
    """Looks tokens up in a packed weight, as `nn.Embedding` does in a plain one.

    Args:
        weight: the weight, a row for each token.
        dtype: of what it returns.
        scale: factor of the rows, rounded to `dtype`, as they are before and after.
    """

    def __init__(self, weight: Weight, dtype: torch.dtype, scale: float = 1.0) -> None:
        super().__init__(weight, None, dtype)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.described = DescribedWeight(weight, None)
        self.scale = float(torch.tensor(scale, dtype=dtype))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of some tokens, `[*ids.shape, inputs]`.

        Raises:
            IndexError: there is no row of a token.
        """
        if torch.compiler.is_dynamo_compiling():
            flat: torch.Tensor = _traced_rows(
                ids.flatten(), self.described.number, self.embedding_dim, self.dtype
            )
        else:
            flat = _rows(ids.flatten(), self.described, self.dtype)
        rows = flat.view(*ids.shape, self.embedding_dim)
        return rows if self.scale == 1.0 else rows * self.scale


def _multiply(x: torch.Tensor, weight: DescribedWeight) -> torch.Tensor:
    found = kernel()
    assert found is not None
    return found.matmul(weight, x)


@torch.library.custom_op("stet::packed_linear", mutates_args=())
def _traced(x: torch.Tensor, weight: int, outputs: int) -> torch.Tensor:
    """As `_multiply`, of a weight's number: a compiled graph holds no objects."""
    return _multiply(x, described[weight])


@_traced.register_fake
def _shape(x: torch.Tensor, weight: int, outputs: int) -> torch.Tensor:
    return x.new_empty(x.shape[0], outputs)


def _rows(ids: torch.Tensor, weight: DescribedWeight, dtype: torch.dtype) -> torch.Tensor:
    found = kernel()
    if found is None or dtype not in (torch.float32, torch.bfloat16):
        return weight.packed.rows(ids, dtype)
    return found.rows(weight, ids, dtype)


@torch.library.custom_op("stet::packed_rows", mutates_args=())
def _traced_rows(ids: torch.Tensor, weight: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """As `_rows`, of a weight's number."""
    return _rows(ids, described[weight], dtype)


@_traced_rows.register_fake
def _shape_of_rows(ids: torch.Tensor, weight: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return ids.new_empty(ids.shape[0], inputs, dtype=dtype)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)
