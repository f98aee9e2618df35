"""Rounding of full-precision weights."""

import sys

import pytest
import torch

from stet.kernels import arrange, concatenate, quantise, unavailable


def error(weight, bits):
    return ((quantise(weight, bits).dequantise() - weight).norm() / weight.norm()).item()


def test_errors_are_those_of_the_bits():
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    assert error(weight, 8) < 0.006
    assert error(weight, 4) < 0.078
    # A plain range from least to largest does worse.
    groups = weight.view(64, -1, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    plain = ((groups - low) / (high - low) * 15).round() / 15 * (high - low) + low
    assert error(weight, 4) < 0.95 * ((plain - groups).norm() / groups.norm()).item()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e12])
def test_errors_do_not_depend_on_the_size(bits, size):
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(1))
    assert error(weight.double().mul(size).float(), bits) == pytest.approx(
        error(weight, bits), rel=0.05
    )


def test_bits_for_a_weight():
    weight = torch.randn(64, 1024)
    assert quantise(weight, 4).nbytes * 8 == 4.625 * weight.numel()
    assert quantise(weight, 8).nbytes * 8 == 8.5 * weight.numel()


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_one_value(bits):
    weight = torch.zeros(5, 64)
    weight[1], weight[2] = 0.5, -0.5
    found = quantise(weight, bits).dequantise()
    assert torch.allclose(found, weight, atol=0, rtol=0.01)
    assert (found[0] == 0).all()


def test_a_bfloat16_weight_in_pieces(monkeypatch):
    weight = torch.randn(200, 96).bfloat16()
    whole = quantise(weight)
    monkeypatch.setattr("stet.kernels.packed.CHUNK", 96 * 32)
    pieces = quantise(weight)
    assert whole.shape == pieces.shape == (200, 96)
    assert torch.equal(whole.dequantise(), pieces.dequantise())
    joined = concatenate([quantise(weight[:64]), quantise(weight[64:])])
    assert torch.equal(whole.dequantise(), joined.dequantise())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(wrong):
    weight = torch.randn(32, 64)
    weight[3, 5] = wrong
    with pytest.raises(ValueError, match="no finite numbers"):
        quantise(weight)


@pytest.mark.parametrize(("weight", "bits"), [(torch.ones(3), 4), (torch.ones(3, 3), 5)])
def test_what_cannot_be_rounded(weight, bits):
    with pytest.raises(ValueError, match="a matrix of weights is rounded to 4 or 8 bits"):
        quantise(weight, bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 1024), (70, 33), (5, 64), (33, 300)])
def test_the_compiled_code_gives_what_torch_gives(shape, dtype, monkeypatch):
    """To the last bit, so that a weight is the same on a machine without a compiler."""
    if unavailable() is not None:
        pytest.skip(unavailable())
    made = torch.Generator().manual_seed(2)
    spread = torch.rand(shape[0], 1, generator=made)
    weight = (torch.randn(shape, generator=made) * spread * 0.03).to(dtype)
    weight[1], weight[2], weight[3, :7] = 0, 0.5, 0
    compiled = [quantise(weight, 4), quantise(weight, 8), arrange(weight)]
    for module in ("quantise", "bfloat"):
        monkeypatch.setattr(sys.modules[f"stet.kernels.{module}"], "convert", lambda *_: None)
    through_torch = [quantise(weight, 4), quantise(weight, 8), arrange(weight)]
    for own, other in zip(compiled, through_torch, strict=True):
        for name, tensor in own.tensors().items():
            assert torch.equal(tensor, other.tensors()[name]), (own.bits, name)
        assert own.shape == other.shape
