"""What Stet's own decoder takes on, what it leaves to transformers, and whose weights it uses."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, CohereConfig, GPT2Config, OlmoConfig

import tiny
from dense import DENSE, SIZES, dense
from families import VOCAB, build, needs_gpt2
from stet.decoder import decoder, linear, norm, rotary
from stet.decoder.decoder import Decoder
from stet.decoder.foreign import ForeignBody
from stet.engine.runner import Runner
from stet.models import prepare_model

pytestmark = pytest.mark.unit

TOKENS = torch.arange(20)[None] % VOCAB


def logits(loaded: Any) -> torch.Tensor:
    run = Runner(loaded, max_rows=1, max_length=64)
    return run.forward([run.allocate()], TOKENS, [0]).logits


# Weights


def storage(model: nn.Module) -> int:
    """Bytes of memory behind all weights."""
    pieces = {w.untyped_storage().data_ptr(): w.untyped_storage() for w in model.parameters()}
    return sum(piece.nbytes() for piece in pieces.values())


@pytest.mark.parametrize("kind", DENSE)
def test_weights_are_shared_and_stay_what_they_were(kind: str) -> None:
    model = dense(kind)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    held, parameters = storage(model), list(model.parameters())
    loaded = prepare_model(model)
    assert isinstance(loaded.body, Decoder)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert storage(model) == held
    assert loaded.parameter_bytes == sum(w.nbytes for w in parameters) + sum(
        b.nbytes for b in model.buffers()
    )
    behind = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    for layer in loaded.body.layers:
        for part in (layer.qkv, layer.out, layer.gate_up, layer.down):
            assert part.weight.untyped_storage().data_ptr() in behind
    (embedding,) = loaded.body.embedding.args
    assert embedding.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_the_module_goes_on_to_work_by_itself() -> None:
    model = dense("qwen2")
    wanted = deepcopy(model)(input_ids=TOKENS).logits
    prepare_model(model)
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(input_ids=TOKENS).logits, wanted)


def test_a_model_that_was_prepared_is_saved_whole(tmp_path: Path) -> None:
    model = dense("llama-biases")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    prepare_model(model).model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(weight, before[name]) for name, weight in again.state_dict().items())


def test_a_model_that_is_prepared_twice_has_one_set_of_weights() -> None:
    model = dense("qwen2")
    first, second = prepare_model(model), prepare_model(model, role="draft")
    for one, other in zip(first.body.layers, second.body.layers, strict=True):
        assert one.qkv.weight.data_ptr() == other.qkv.weight.data_ptr()
        assert one.qkv.bias.data_ptr() == other.qkv.bias.data_ptr()
        assert one.gate_up.weight.data_ptr() == other.gate_up.weight.data_ptr()
    assert torch.equal(logits(first), logits(second))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "phi3"])
def test_large_weights_stay_apart_on_a_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_LARGE", 0)
    model = dense(kind)
    places = [weight.data_ptr() for weight in model.parameters()]
    loaded = prepare_model(model)
    assert loaded.foreign is None
    assert [weight.data_ptr() for weight in model.parameters()] == places
    wanted = logits(prepare_model(dense(kind), lean=False))
    torch.testing.assert_close(logits(loaded), wanted, atol=3e-4, rtol=0)


@pytest.mark.parametrize("apart", [False, True])
def test_weights_that_are_written_to_are_seen(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if apart:
        monkeypatch.setattr(linear, "_LARGE", 0)
    model = dense("llama")
    loaded = prepare_model(model)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight.mul_(0.5)
            layer.mlp.up_proj.weight.mul_(2)
    wanted = logits(prepare_model(model, lean=False))
    torch.testing.assert_close(logits(loaded), wanted, atol=1e-3, rtol=0)


# What is left to transformers

OTHERS = {
    "GPT2Model": GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "CohereModel": CohereConfig(**SIZES, pad_token_id=0),
    "OlmoModel": OlmoConfig(**SIZES, pad_token_id=0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_run_through_transformers(name: str) -> None:
    if name == "GPT2Model":
        needs_gpt2()
    torch.manual_seed(0)
    loaded = prepare_model(AutoModelForCausalLM.from_config(OTHERS[name]).eval())
    assert loaded.foreign == name
    assert isinstance(loaded.body, ForeignBody)


class Odd(nn.Linear):
    pass


def odd_matrix(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.__class__ = Odd


def hook(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)


def other_forward(model: Any) -> None:
    attention = model.model.layers[2].self_attn
    attention.forward = attention.forward


def further_part(model: Any) -> None:
    model.model.layers[0].mlp.extra = nn.Linear(2, 2)


def further_weight(model: Any) -> None:
    model.model.norm.scale = nn.Parameter(torch.ones(1), requires_grad=False)


def weight_in_a_buffer(model: Any) -> None:
    matrix = model.model.layers[0].mlp.up_proj
    weight = matrix.weight.detach()
    del matrix.weight
    matrix.register_buffer("weight", weight)


def some_biases(model: Any) -> None:
    projection = model.model.layers[0].self_attn.k_proj
    projection.bias = nn.Parameter(torch.zeros(projection.out_features), requires_grad=False)


def another_dtype(model: Any) -> None:
    model.model.norm.half()


def other_activation(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = nn.Tanh()


CHANGES: dict[Callable[[Any], None], str] = {
    odd_matrix: "a Odd at layers.1.mlp.up_proj",
    hook: "a changed LlamaMLP at layers.0.mlp",
    other_forward: "a changed LlamaAttention at layers.2.self_attn",
    further_part: "the parts of LlamaMLP",
    further_weight: "a changed LlamaRMSNorm at norm",
    weight_in_a_buffer: "a changed Linear at layers.0.mlp.up_proj",
    some_biases: "a bias of some projections alone",
    another_dtype: "weights of torch.float16 on cpu",
    other_activation: "a Tanh at layers.0.mlp.act_fn",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_not_known_runs_through_transformers(change: Callable[[Any], None]) -> None:
    model = build("llama")
    change(model)
    assert prepare_model(model, self_check=False).foreign == CHANGES[change]


def test_models_of_others_are_read_as_before_when_nothing_is_odd() -> None:
    assert tiny.loaded(tiny.llama()).foreign is None


# What the check at load does


def wrong_epsilon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(norm.Norm, "__call__", lambda self, x: x * self.weight)


def wrong_turn(patch: pytest.MonkeyPatch) -> None:
    def rotate(heads: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor]) -> None:
        rotary.rotate(heads, (factors[0], -factors[1]))

    patch.setattr(decoder, "rotate", rotate)


def wrong_share(patch: pytest.MonkeyPatch) -> None:
    layer = decoder.Layer.__call__

    def wrong(self, *rest):
        self.share = 1.5
        return layer(self, *rest)

    patch.setattr(decoder.Layer, "__call__", wrong)


FAULTS = {
    wrong_epsilon: "inputs of layer 0",
    wrong_turn: "queries in layer 0",
    wrong_share: "inputs of layer 1",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_is_wrong_is_put_aside(
    fault: Callable[[pytest.MonkeyPatch], None], dtype: torch.dtype
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.warns(RuntimeWarning, match=f"which is slower.*{FAULTS[fault]}"):
            loaded = prepare_model(dense("llama", dtype), name="llama")
        assert loaded.foreign == "it gave other numbers"
        assert isinstance(loaded.body, ForeignBody)
    wanted = logits(prepare_model(dense("llama", dtype), lean=False))
    assert torch.equal(logits(loaded), wanted)
