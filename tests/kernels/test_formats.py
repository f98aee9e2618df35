"""Packed weights hold what ggml's types say, to the bit."""

import numpy as np
import pytest
import torch

from kernels.blocks import KINDS, random_blocks, random_weight
from real import real_model
from stet.kernels import concatenate, pack_ggml, unavailable
from stet.kernels.ggml import TYPES
from stet.kernels.planes import decode, encode
from stet.kernels.retile import retile

SHAPES = [(64, 256), (7, 512), (96, 1536), (33, 4864)]


def reference(kind, raw, shape):
    gguf = pytest.importorskip("gguf", reason="needs the package gguf, to compare with")
    values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(np.ascontiguousarray(values)).view(shape)


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_codes_come_back(bits):
    codes = torch.randint(0, 2**bits, (5, 3, 32), dtype=torch.uint8)
    words = encode(codes, bits)
    assert words.shape == (5, 3, bits)
    assert torch.equal(decode(words, bits), codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_tensor_has_the_values_of_its_type(kind, shape):
    raw = random_blocks(kind, *shape)
    expected = reference(kind, raw.numpy(), shape)
    packed = pack_ggml(kind, raw.numpy(), shape)
    assert torch.equal(packed.dequantise(), expected)
    assert torch.equal(packed.dequantise(torch.bfloat16), expected.bfloat16())
    ids = torch.tensor([[0, 5, 5], [shape[0] - 1, 2, 1]])
    assert torch.equal(packed.rows(ids), expected[ids])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 256)])
def test_the_compiled_code_gives_what_torch_gives(kind, shape, monkeypatch):
    if unavailable() is not None:
        pytest.skip(unavailable())
    raw = random_blocks(kind, *shape)
    done = []
    monkeypatch.setattr("stet.kernels.ggml.retile", lambda *a: done.append(retile(*a)) or done[-1])
    compiled = pack_ggml(kind, raw, shape)
    assert done == [True]
    monkeypatch.setattr("stet.kernels.ggml.retile", lambda *_: False)
    through_torch = pack_ggml(kind, raw, shape)
    assert (compiled.shape, compiled.format) == (through_torch.shape, through_torch.format)
    for name, tensor in compiled.tensors().items():
        assert torch.equal(tensor, through_torch.tensors()[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_are_no_multiple_of_256(kind):
    if TYPES[kind].weights == 256:
        with pytest.raises(ValueError, match="no matrix"):
            pack_ggml(kind, bytes(100), (32, 896))
        return
    raw = random_blocks(kind, 32, 896)
    packed = pack_ggml(kind, bytes(raw.numpy().tobytes()), (32, 896))
    assert torch.equal(packed.dequantise(), reference(kind, raw.numpy(), (32, 896)))


def test_a_type_by_number_and_from_a_tensor():
    raw = random_blocks("Q4_K", 32, 256)
    named, numbered = pack_ggml("Q4_K", raw, (32, 256)), pack_ggml(12, raw, (32, 256))
    assert torch.equal(named.dequantise(), numbered.dequantise())


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="IQ2_XS cannot be packed; those that can: Q4_0, Q4_1"):
        pack_ggml("IQ2_XS", b"", (32, 256))


@pytest.mark.parametrize(
    ("kind", "most"),
    [("Q4_0", 4.5), ("Q4_1", 5), ("Q5_0", 5.5), ("Q8_0", 8.5), ("Q4_K", 4.625), ("Q6_K", 6.5625)],
)
def test_bits_for_a_weight(kind, most):
    weight = random_weight(kind, 64, 1536)
    assert weight.nbytes * 8 / (64 * 1536) == most
    assert weight.nbytes == sum(tensor.nbytes for tensor in weight.tensors().values())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_below_each_other(kind):
    parts = [random_weight(kind, rows, 512, seed=rows) for rows in (64, 32, 40)]
    joined = concatenate(parts)
    assert joined.shape == (136, 512)
    assert torch.equal(joined.dequantise(), torch.cat([part.dequantise() for part in parts]))


def test_weights_that_do_not_fit_together():
    with pytest.raises(ValueError, match="different formats"):
        concatenate([random_weight("Q4_K", 32, 256), random_weight("Q6_K", 32, 256)])
    with pytest.raises(ValueError, match="different formats or inputs"):
        concatenate([random_weight("Q4_K", 32, 256), random_weight("Q4_K", 32, 512)])
    with pytest.raises(ValueError, match="whole tiles of 32"):
        concatenate([random_weight("Q4_K", 40, 256), random_weight("Q4_K", 32, 256)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coder-0.5b", "coder-1.5b", "smol-135m"])
def test_tensors_of_published_files(name):
    gguf = pytest.importorskip("gguf", reason="needs the package gguf, to read files")
    path = real_model(name).parent / f"{name}.gguf"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    seen = set()
    for tensor in gguf.GGUFReader(path).tensors:
        kind, shape = tensor.tensor_type.name, tuple(int(n) for n in reversed(tensor.shape))
        if kind not in TYPES or (kind, shape) in seen or shape[0] > 20000:
            continue
        seen.add((kind, shape))
        packed = pack_ggml(kind, tensor.data, shape)
        assert torch.equal(packed.dequantise(), reference(kind, tensor.data, shape)), tensor.name
    assert seen
