"""Weights of 4 to 16 bits on the CPU, and the compiled kernel that multiplies with them."""

from stet.kernels.bfloat import BfloatWeight, arrange
from stet.kernels.ggml import pack_ggml
from stet.kernels.linear import PackedEmbedding, PackedLinear
from stet.kernels.native import unavailable
from stet.kernels.packed import PackedWeight, concatenate
from stet.kernels.quantise import quantise

__all__ = [
    "BfloatWeight",
    "PackedEmbedding",
    "PackedLinear",
    "PackedWeight",
    "arrange",
    "concatenate",
    "pack_ggml",
    "quantise",
    "unavailable",
]
