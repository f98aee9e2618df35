"""Rows of packed weights by the kernel: the same bits as torch's operations give."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from kernels.blocks import ALL, PATHS, compiled, random_weight
from stet.kernels import PackedEmbedding, quantise
from stet.kernels.native import DescribedWeight

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ALL)
def test_rows_have_the_values_of_the_weight(kind: str, path: str, dtype: torch.dtype) -> None:
    weight = random_weight(kind, 71, 768)
    ids = torch.randint(71, (50,), generator=torch.Generator().manual_seed(1))
    ids[:3] = torch.tensor([0, 70, 32])
    found = compiled(path).rows(DescribedWeight(weight, None), ids, dtype)
    assert torch.equal(found, weight.dequantise()[ids].to(dtype))
    assert torch.equal(found, weight.rows(ids, dtype))


@pytest.mark.parametrize("inputs", [40, 96, 300])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_that_end_within_a_group(bits: int, inputs: int) -> None:
    weight = quantise(torch.randn(33, inputs), bits)
    found = compiled().rows(DescribedWeight(weight, None), torch.arange(33), torch.float32)
    assert torch.equal(found, weight.dequantise())


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_an_embedding_of_any_shape_with_a_scale(dtype: torch.dtype) -> None:
    compiled()
    weight = random_weight("Q6_K", 64, 256)
    ids = torch.randint(64, (3, 10)).t()
    values = weight.dequantise()[ids].to(dtype)
    assert torch.equal(PackedEmbedding(weight, dtype)(ids), values)
    scaled = PackedEmbedding(weight, dtype, scale=48**0.5)
    assert torch.equal(scaled(ids), values * torch.tensor(48**0.5).to(dtype))
    assert torch.equal(deepcopy(scaled)(ids), scaled(ids))
    assert PackedEmbedding(weight, dtype)(ids[:0]).shape == (0, 3, 256)


@pytest.mark.parametrize("wrong", [-1, 64, 2**40])
def test_ids_without_a_row_are_refused(wrong: int) -> None:
    compiled()
    embedding = PackedEmbedding(random_weight("Q4_0", 64, 64), torch.float32)
    with pytest.raises(IndexError, match="below 64, and none is negative"):
        embedding(torch.tensor([3, wrong]))


def test_a_compiled_lookup() -> None:
    compiled()
    embedding = PackedEmbedding(random_weight("Q4_K", 64, 256), torch.bfloat16, 2.0)
    ids = torch.randint(64, (2, 5))
    step = torch.compile(embedding, fullgraph=True)
    assert torch.equal(step(ids), embedding(ids))
