"""Random tensors of ggml's types, and what the tests of packed weights share."""

from __future__ import annotations

import functools

import pytest
import torch

from stet.kernels import BfloatWeight, PackedWeight, arrange, pack_ggml
from stet.kernels.build import FLAGS, load_library
from stet.kernels.ggml import TYPES
from stet.kernels.native import SOURCE, DescribedWeight, Kernel, kernel, unavailable

KINDS = list(TYPES)
ALL = [*KINDS, "bfloat16"]
PATHS: dict[str, tuple[str, ...]] = {
    "native": (),
    "portable": (),
    "AVX2": ("-march=haswell",),
    "no bfloat16": ("-mno-avx512bf16",),
}
"""Ways through the kernel, by what the compiler is told: every processor with a fast path has the
instructions of all of them."""
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where a block has its halves; in the others it is the first two bytes."""


def random_blocks(kind: str, outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """`[outputs, bytes]`: every bit is random, but for scales of a size that weights have."""
    made = torch.Generator().manual_seed(seed)
    form = TYPES[kind]
    shape = (outputs, inputs // form.weights, form.size)
    raw = torch.randint(0, 256, shape, generator=made, dtype=torch.uint8)
    for at in HALVES.get(kind, (0,)):
        halves = torch.randn(shape[:2], generator=made).half() / 100
        raw[..., at : at + 2] = halves[..., None].view(torch.uint8)
    return raw.flatten(1)


def random_weight(
    kind: str, outputs: int, inputs: int, seed: int = 0
) -> PackedWeight | BfloatWeight:
    if kind == "bfloat16":
        made = torch.Generator().manual_seed(seed)
        return arrange(torch.randn(outputs, inputs, generator=made))
    return pack_ggml(kind, random_blocks(kind, outputs, inputs, seed), (outputs, inputs))


@functools.cache
def compiled(path: str = "native") -> Kernel:
    """The kernel, with one of its `PATHS`; skips the test where there is none."""
    if kernel() is None:
        pytest.skip(f"needs the compiled kernel: {unavailable()}")
    return Kernel(load_library(SOURCE, (*FLAGS, *PATHS[path])), fast=path != "portable")


def multiply(weight, x: torch.Tensor, bias=None, path: str = "native") -> torch.Tensor:
    return compiled(path).matmul(DescribedWeight(weight, bias), x)
