"""The kernel's contract: the right product, and the same bits however it is computed."""

import copy
import threading

import pytest
import torch

from kernels.blocks import ALL, KINDS, PATHS, compiled, multiply, random_weight
from stet.kernels import PackedLinear, arrange, quantise

INPUTS = {kind: 512 if kind.endswith("_K") else 544 for kind in ALL}


def tokens(count, inputs, dtype=torch.float32, seed=1):
    made = torch.Generator().manual_seed(seed)
    # Sizes differ from group to group, as those of activations do.
    return (torch.randn(count, inputs, generator=made).exp() - 1).to(dtype)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_product_is_that_of_the_weights(kind):
    weight = random_weight(kind, 70, INPUTS[kind])
    x = tokens(9, INPUTS[kind])
    bias = torch.randn(70)
    expected = x.double() @ weight.dequantise().double().T + bias
    found = multiply(weight, x, bias)
    # Rounding to int8 is off by at most half a step of 1/127 of a group's largest value.
    steps = x.view(9, -1, 32).abs().amax(-1) / 127
    sizes = weight.dequantise().abs().view(70, -1, 32).sum(-1)
    assert ((found - expected).abs() <= 0.51 * steps @ sizes.T + 1e-4).all()
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_activations_that_are_whole_numbers_lose_nothing(kind):
    weight = random_weight(kind, 32, INPUTS[kind])
    x = torch.randint(-127, 128, (5, INPUTS[kind])).float()
    x.view(5, -1, 32)[..., 3] = 127
    expected = x.double() @ weight.dequantise().double().T
    found = multiply(weight, x)
    assert torch.allclose(found.double(), expected, rtol=0, atol=2e-5 * expected.abs().max())


def test_the_product_with_bfloat16():
    weight = random_weight("bfloat16", 70, 544)
    x = tokens(9, 544, torch.bfloat16)
    bias = torch.randn(70)
    expected = x.double() @ weight.dequantise().double().T + bias
    found = multiply(weight, x.float(), bias)
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-6 * expected.abs().max() * 544)
    assert torch.equal(found.bfloat16(), multiply(weight, x, bias))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [1, 31, 96])
@pytest.mark.parametrize("path", [path for path in PATHS if path != "portable"])
def test_a_fast_path_gives_the_bits_of_the_portable_one(kind, dtype, outputs, path):
    weight = random_weight(kind, outputs, INPUTS[kind])
    x = tokens(35, INPUTS[kind], dtype)
    bias = torch.randn(outputs)
    fast = multiply(weight, x, bias, path)
    assert fast.dtype == dtype
    assert torch.equal(fast, multiply(weight, x, bias, "portable"))


@pytest.mark.parametrize("kind", ALL)
def test_a_token_s_output_does_not_depend_on_the_others(kind, threads):
    weight = random_weight(kind, 160, INPUTS[kind])
    x = tokens(40, INPUTS[kind], torch.bfloat16)
    threads(1)
    alone = torch.cat([multiply(weight, x[i : i + 1]) for i in range(40)])
    for count in (1, 2):
        threads(count)
        for length in range(1, 41):
            assert torch.equal(multiply(weight, x[:length]), alone[:length])
            assert torch.equal(multiply(weight, x[-length:]), alone[-length:])


def test_many_tokens_and_rows(threads):
    weight = random_weight("Q4_K", 3000, 256)
    x = tokens(300, 256)
    threads(2)
    whole = multiply(weight, x)
    assert torch.equal(whole[123:130], multiply(weight, x[123:130].contiguous()))
    threads(1)
    assert torch.equal(whole, multiply(weight, x))


def test_several_callers_at_once():
    weight = random_weight("Q4_K", 512, 512)
    batches = [tokens(7, 512, seed=seed) for seed in range(4)]
    expected = [multiply(weight, x) for x in batches]
    wrong = []

    def call(x, right):
        for _ in range(30):
            if not torch.equal(multiply(weight, x), right):
                wrong.append(right)

    callers = [
        threading.Thread(target=call, args=pair) for pair in zip(batches, expected, strict=True)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("inputs", [1, 31, 33, 100, 257, 300])
@pytest.mark.parametrize("bits", [4, 8])
def test_odd_shapes(inputs, bits):
    made = torch.Generator().manual_seed(inputs)
    weight = quantise(torch.randn(5, inputs, generator=made), bits)
    x = tokens(3, inputs)
    found = multiply(weight, x)
    expected = x @ weight.dequantise().T
    assert torch.equal(found, multiply(weight, x, path="portable"))
    assert (found - expected).abs().max() <= 0.02 * x.abs().max() * weight.dequantise().abs().sum(
        1
    ).max()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "bfloat16"])
def test_what_is_no_number_stays_none(kind, value, dtype):
    weight = random_weight(kind, 40, 512)
    x = tokens(4, 512, dtype)
    clean = multiply(weight, x)
    x[2, 300] = value
    for path in PATHS:
        found = multiply(weight, x, path=path)
        assert not found[2].isfinite().any()
        assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])


def test_zeros_and_the_smallest_numbers_give_zeros_and_the_largest_do_not_fail():
    weight = random_weight("Q5_0", 32, 64)
    x = torch.zeros(3, 64)
    x[1] = 1e-42
    x[2, ::7] = 3e38
    found = multiply(weight, x)
    assert (found[:2] == 0).all()
    assert torch.equal(found, multiply(weight, x, path="portable"))


@pytest.mark.parametrize("inputs", [1, 31, 33, 300])
def test_odd_shapes_of_bfloat16(inputs):
    plain = torch.randn(5, inputs, generator=torch.Generator().manual_seed(inputs)).bfloat16()
    weight = arrange(plain)
    assert torch.equal(weight.dequantise(torch.bfloat16), plain)
    assert torch.equal(weight.rows(torch.tensor([[4, 0]]))[0], plain[[4, 0]].float())
    x = tokens(3, inputs, torch.bfloat16)
    assert torch.equal(multiply(weight, x), multiply(weight, x, path="portable"))


def test_no_tokens():
    assert multiply(random_weight("Q4_0", 32, 64), torch.empty(0, 64)).shape == (0, 32)


def test_the_layer_takes_any_batch_and_type():
    compiled()
    weight, bias = random_weight("Q8_0", 48, 64), torch.randn(48, dtype=torch.bfloat16)
    layer = PackedLinear(weight, bias)
    x = tokens(12, 64)
    flat = layer(x)
    assert torch.equal(layer(x.view(2, 3, 2, 64)), flat.view(2, 3, 2, 48))
    assert torch.equal(layer(x.T.contiguous().T), flat)
    assert torch.equal(layer(x[0]), flat[0])
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert layer(x.half()).dtype == torch.float16
    assert (layer.in_features, layer.out_features, layer.bias) == (64, 48, bias)
    assert layer.packed is weight


def test_a_copy_of_a_layer_has_tensors_of_its_own():
    compiled()
    layer = PackedLinear(random_weight("Q4_0", 32, 64), torch.randn(32))
    x = tokens(3, 64)
    expected = layer(x)
    copied = copy.deepcopy(layer)
    del layer
    assert torch.equal(copied(x), expected)


@pytest.mark.slow
def test_layers_are_traced_as_one_operation():
    compiled()
    layers = torch.nn.Sequential(
        PackedLinear(random_weight("Q4_K", 512, 256), torch.randn(512)),
        torch.nn.GELU(),
        PackedLinear(random_weight("Q6_K", 96, 512)),
    )
    traced = torch.compile(layers, fullgraph=True)
    with torch.inference_mode():
        for x in (tokens(4, 256), tokens(6, 256).view(2, 3, 256)):
            assert torch.allclose(traced(x), layers(x), rtol=0.02, atol=1e-3)
