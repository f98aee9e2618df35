"""The norm kernel: its values, and that a vector's bits are its own."""

from __future__ import annotations

import pytest
import torch

from stet.kernels.norm import norm, serves

pytestmark = pytest.mark.skipif(
    not serves(torch.ones(16)), reason="the kernel cannot be compiled here"
)

TYPES = {"float32": (torch.float32, 1e-6), "bfloat16": (torch.bfloat16, 2**-7)}


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("size", [16, 80, 1536])
def test_values(size: int, kind: str, rounds: bool) -> None:
    dtype, limit = TYPES[kind]
    made = torch.Generator().manual_seed(size)
    x = (torch.randn(5, size, generator=made) * torch.tensor([[1], [1e3], [1e-4], [0], [3]])).to(
        dtype
    )
    weight = torch.randn(size, generator=made)
    wanted = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    if rounds:
        wanted = wanted.to(dtype).double()
    wanted = wanted * weight.double()
    found = norm(x, weight, 1e-6, rounds=rounds)
    assert found.dtype == dtype
    assert ((found - wanted).abs() <= limit * wanted.abs()).all()
    assert not found[3].any()


@pytest.mark.parametrize("kind", TYPES)
def test_a_vector_is_the_same_bits_in_every_call(kind: str) -> None:
    x = torch.randn(9, 96).to(TYPES[kind][0])
    weight = torch.randn(96)
    alone = torch.cat([norm(row[None], weight, 1e-6, rounds=True) for row in x])
    assert torch.equal(norm(x, weight, 1e-6, rounds=True), alone)
    assert torch.equal(norm(x.t().contiguous().t(), weight, 1e-6, rounds=True), alone)


@pytest.mark.parametrize("kind", TYPES)
def test_a_number_that_is_none_stays_in_its_vector(kind: str) -> None:
    x = torch.randn(3, 32).to(TYPES[kind][0])
    x[1, 7] = torch.nan
    found = norm(x, torch.ones(32), 1e-6, rounds=True)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
    x[1, 7] = torch.inf
    assert not norm(x, torch.ones(32), 1e-6, rounds=True)[1].isfinite().all()


def test_what_it_does_not_serve() -> None:
    assert not serves(torch.ones(24))
    assert not serves(torch.ones(2, 1, 32))
    assert not serves(torch.ones(32).half())
