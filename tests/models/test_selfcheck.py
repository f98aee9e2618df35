"""The check at load: every fault is caught, in any precision, and no faithful model is refused.

The random models here are as noisy as published ones: key biases in the hundreds, so that a last
bit of a key moves a whole score, and a few activations far larger than the others.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)

from families import FAMILIES, build, needs_gpt2
from real import real_model
from stet.core.errors import CompatibilityError
from stet.core.row import PAGE
from stet.engine import attention, kv_cache
from stet.kernels.attention import NativePass, serves
from stet.models import load_model, prepare_model

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "max_position_embeddings": 4096,
}


def noisy(config: PreTrainedConfig, dtype: torch.dtype, seed: int = 0):
    """A random model whose rounding errors are as large as those of published ones."""
    torch.manual_seed(seed)
    if config.model_type == "gpt2":
        needs_gpt2()
    model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 2 * weight.shape[-1] ** -0.5)
            if name.endswith("k_proj.bias"):
                weight.normal_(0, 3)
                weight[:: weight.shape[0] // 4] = 150.0
            elif name.endswith("q_proj.bias"):
                weight.normal_(0, 1)
            elif name.endswith(("embed_tokens.weight", "wte.weight")):
                weight[:, :2] *= 200.0
    return model.to(dtype)


QWEN = Qwen2Config(**SIZES)
WINDOWED = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=64, max_window_layers=2)
CAPPED = Gemma2Config(**SIZES, head_dim=16, sliding_window=64, attn_logit_softcapping=8.0)
LEARNED = GPT2Config(vocab_size=300, n_embd=64, n_layer=6, n_head=4, n_positions=512)


def error_of(model, dtype: torch.dtype) -> float:
    """How far a model's own eager logits are from its logits in float32, relative to their size."""
    tokens = torch.randint(300, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.set_attn_implementation("eager")
        rounded = model(input_ids=tokens).logits.float()
        exact = model.float()(input_ids=tokens).logits
    model.to(dtype)
    return float((rounded - exact).square().mean().sqrt() / exact.std(-1).mean())


def test_the_models_here_are_as_noisy_as_published_ones() -> None:
    """Qwen2.5 is 0.14 to 0.18 away from itself in float32."""
    assert error_of(noisy(QWEN, torch.bfloat16), torch.bfloat16) > 0.14


Fault = Callable[[object, pytest.MonkeyPatch], None]


def mask_off_by_one(model, patch: pytest.MonkeyPatch) -> None:
    mask = attention.additive_mask
    patch.setattr(
        attention,
        "additive_mask",
        lambda positions, slots, *rest: mask(positions + 1, slots, *rest),
    )


def arguments_of(change) -> Fault:
    """Attention, by whatever it is computed, is called with other arguments."""

    def fault(model, patch: pytest.MonkeyPatch) -> None:
        attend = attention._attend

        def wrong(query, key, value, scaling, window, softcap, *rest):
            return attend(query, key, value, *change(query, scaling, window, softcap), *rest)

        patch.setattr(attention, "_attend", wrong)

    fault.__name__ = change.__name__
    return fault


@arguments_of
def window_off_by_one(query, scaling, window, softcap):
    return scaling, None if window is None else window + 1, softcap


@arguments_of
def no_window(query, scaling, window, softcap):
    return scaling, None, softcap


@arguments_of
def scaling(query, scaling, window, softcap):
    return 1.1 * (query.shape[-1] ** -0.5 if scaling is None else scaling), window, softcap


@arguments_of
def no_cap(query, scaling, window, softcap):
    return scaling, window, None


def stale_keys(model, patch: pytest.MonkeyPatch) -> None:
    stay(patch, "keys", 3)


def stale_values(model, patch: pytest.MonkeyPatch) -> None:
    stay(patch, "values", 5)


def stay(patch: pytest.MonkeyPatch, part: str, layer: int) -> None:
    """What was written once stays: a rewind shows it."""
    update = attention.CacheView.update

    def wrong(self, key, value, layer_idx, *rest):
        before = getattr(self, part)[layer_idx].clone()
        written = update(self, key, value, layer_idx, *rest)
        if layer_idx == layer:
            found = written[("keys", "values").index(part)]
            found.copy_(torch.where(before != 0, before, found))
        return written

    patch.setattr(attention.CacheView, "update", wrong)


def short_copies(model, patch: pytest.MonkeyPatch) -> None:
    copy = kv_cache.KVCache.copy
    patch.setattr(
        kv_cache.KVCache,
        "copy",
        lambda self, sources, targets: copy(self, sources[:-1], targets[:-1]),
    )


def wrong_positions(model, patch: pytest.MonkeyPatch) -> None:
    """Masks of uneven rows go by positions that end too soon."""
    span = attention._attend_span

    def wrong(query, key, value, factor, window, cap, view, part):
        if part.positions is not None:
            part.positions = part.positions.clamp(max=8)
        return span(query, key, value, factor, window, cap, view, part)

    patch.setattr(attention, "_attend_span", wrong)


def one_rotation(model, patch: pytest.MonkeyPatch) -> None:
    """One layer rotates by positions that lag one behind, when there is a cache."""
    layer = model.model.layers[4].self_attn
    forward = layer.forward

    def wrong(*args, position_embeddings, stet_view=None, **kwargs):
        if isinstance(stet_view, attention.CacheView):
            cos, sin = position_embeddings
            late = torch.arange(cos.shape[-1] // 2, device=cos.device) * -2 / cos.shape[-1]
            angle = (model.config.rope_parameters["rope_theta"] ** late).repeat(2)
            turn = torch.polar(torch.ones_like(angle), -angle)
            turned = torch.complex(cos.float(), sin.float()) * turn
            position_embeddings = turned.real.to(cos), turned.imag.to(sin)
        return forward(
            *args, position_embeddings=position_embeddings, stet_view=stet_view, **kwargs
        )

    patch.setattr(layer, "forward", wrong)


def learned_positions(model, patch: pytest.MonkeyPatch) -> None:
    """Positions start at zero in each pass."""
    body = model.transformer.forward
    patch.setattr(
        model.transformer,
        "forward",
        lambda *args, position_ids=None, **kwargs: body(
            *args,
            position_ids=None if position_ids is None else position_ids - position_ids.min(),
            **kwargs,
        ),
    )


def memory_of_its_own(model, patch: pytest.MonkeyPatch) -> None:
    """A layer that mixes in the token before, and knows nothing of passes."""
    for layer in model.model.layers:
        forward = layer.mlp.forward
        patch.setattr(
            layer.mlp,
            "forward",
            lambda x, forward=forward: forward(
                x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
            ),
        )


FAULTS: list[tuple[PreTrainedConfig, Fault, str]] = [
    (QWEN, mask_off_by_one, "results of attention in layer 0"),
    (WINDOWED, window_off_by_one, "results of attention in layer 2"),
    (WINDOWED, no_window, "results of attention in layer 2"),
    (CAPPED, window_off_by_one, "results of attention in layer 0"),
    (QWEN, scaling, "results of attention in layer"),
    (CAPPED, scaling, "results of attention in layer"),
    (CAPPED, no_cap, "results of attention in layer"),
    (QWEN, stale_keys, "keys in layer 3"),
    (QWEN, stale_values, "values in layer 5"),
    (QWEN, short_copies, "results of attention in layer"),
    (QWEN, wrong_positions, "results of attention in layer"),
    (QWEN, one_rotation, "queries in layer 4"),
    (LEARNED, learned_positions, "inputs of layer 0"),
    (QWEN, memory_of_its_own, "last hidden states"),
]


TORCHS = (mask_off_by_one, wrong_positions)
"""Faults that torch's attention alone can have."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("config", "fault", "where"), FAULTS, ids=[f"{c.model_type}-{f.__name__}" for c, f, _ in FAULTS]
)
def test_faults_are_caught(
    config: PreTrainedConfig, fault: Fault, where: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = noisy(config, DTYPES[dtype])
    native = fault not in TORCHS
    prepare_model(model, name="noisy", native=native)
    fault(model, monkeypatch)
    with pytest.raises(CompatibilityError, match=rf"the {where}.* differ .*self_check=False"):
        prepare_model(model, name="noisy", native=native)
    prepare_model(model, name="noisy", self_check=False)


def off_by_one_key(call, query, keys, values, *rest):
    """The last key of a query is not seen."""
    starts = call._held[: len(query)]
    starts -= 1
    try:
        return native_call(call, query, keys, values, *rest)
    finally:
        starts += 1


def one_key_too_many(call, query, keys, values, *rest):
    """Where the pages of a row end, there is none."""
    starts, counts, pages = parts_of(call, len(query))
    more = (starts + counts < (pages > 0).sum(1) * PAGE).long()
    starts += more
    try:
        return native_call(call, query, keys, values, *rest)
    finally:
        starts -= more


def row_of_a_neighbour(call, query, *rest):
    _, _, pages = parts_of(call, len(query))
    pages.copy_(pages.roll(1, 0))
    return native_call(call, query, *rest)


def parts_of(call, batch: int):
    """The starts, counts and pages of a pass, which the kernel reads in place."""
    return (
        call._held[:batch],
        call._held[batch : 2 * batch],
        call._held[2 * batch :].view(batch, -1),
    )


def without_window(call, query, keys, values, scaling, window, softcap):
    return native_call(call, query, keys, values, scaling, None, softcap)


def window_of_one_more(call, query, keys, values, scaling, window, softcap):
    window = None if window is None else window + 1
    return native_call(call, query, keys, values, scaling, window, softcap)


def without_cap(call, query, keys, values, scaling, window, softcap):
    return native_call(call, query, keys, values, scaling, window, None)


def without_scale(call, query, keys, values, scaling, window, softcap):
    return native_call(call, query, keys, values, 1.0, window, softcap)


def no_number(call, query, *rest):
    found = native_call(call, query, *rest)
    found[..., -1] = torch.nan
    return found


native_call = NativePass.__call__
KERNELS = [
    (QWEN, off_by_one_key),
    (QWEN, one_key_too_many),
    (QWEN, row_of_a_neighbour),
    (QWEN, without_scale),
    (QWEN, no_number),
    (WINDOWED, off_by_one_key),
    (WINDOWED, without_window),
    (WINDOWED, window_of_one_more),
    (CAPPED, without_window),
    (CAPPED, without_cap),
    (CAPPED, without_scale),
]


@pytest.mark.skipif(not serves([]), reason="the kernel cannot be compiled here")
@pytest.mark.parametrize("lean", [True, False], ids=["decoder", "transformers"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "fault"), KERNELS, ids=[f"{c.model_type}-{f.__name__}" for c, f in KERNELS]
)
def test_a_faulty_kernel_is_not_used(
    config: PreTrainedConfig, fault, dtype: str, lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch attends in its place; nothing else is given up."""
    model = noisy(config, DTYPES[dtype])
    before = prepare_model(model, name="noisy", lean=lean)
    assert before.native
    monkeypatch.setattr(NativePass, "__call__", fault)
    with pytest.warns(
        RuntimeWarning, match="noisy runs through torch's attention, which is slower"
    ) as seen:
        found = prepare_model(model, name="noisy", lean=lean)
    assert "results of attention in layer" in str(seen[0].message)
    assert len(seen) == 1
    assert not found.native
    assert found.foreign == before.foreign
    prepare_model(model, name="noisy", lean=lean, native=False)


KINDS: list[PreTrainedConfig] = [
    QWEN,
    WINDOWED,
    CAPPED,
    LEARNED,
    LlamaConfig(**SIZES),
    MistralConfig(**SIZES, sliding_window=64),
    Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=64),
    CohereConfig(**SIZES, logit_scale=0.25),
    GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    MixtralConfig(**SIZES, num_local_experts=4),
    Qwen3MoeConfig(
        **SIZES,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        mlp_only_layers=[0],
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", KINDS, ids=[c.model_type + str(i) for i, c in enumerate(KINDS)])
def test_faithful_models_pass(config: PreTrainedConfig, dtype: str) -> None:
    for seed in range(3):
        prepare_model(noisy(config, DTYPES[dtype], seed), name=config.model_type)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tested_family_passes(family: str, dtype: str) -> None:
    prepare_model(build(family, dtype=DTYPES[dtype]), name=family)


def test_everything_is_given_back() -> None:
    """Matrices, hooks and windows are as before, also where the model is refused."""
    model = noisy(WINDOWED, torch.bfloat16)
    tokens = torch.arange(100)[None]
    with torch.inference_mode():
        wanted = model(input_ids=tokens).logits
    prepare_model(model)
    with pytest.MonkeyPatch.context() as patch:
        scaling(model, patch)
        with pytest.raises(CompatibilityError):
            prepare_model(model)
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        assert torch.equal(model(input_ids=tokens).logits, wanted)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["coder-0.5b", "coder-1.5b", "smol-135m"])
def test_published_models_pass(name: str, dtype: str) -> None:
    load_model(real_model(name), role="target", dtype=dtype, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_faults_in_a_published_model_are_caught(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(
        real_model("coder-0.5b"), role="target", dtype=dtype, device="cpu", self_check=False
    )
    faults = [mask_off_by_one, scaling, stale_keys, stale_values, one_rotation, short_copies]
    for fault in faults:
        with monkeypatch.context() as patch:
            fault(loaded.model, patch)
            with pytest.raises(
                CompatibilityError, match="gives other numbers through Stet's cache"
            ):
                prepare_model(loaded.model, name=fault.__name__)
    prepare_model(loaded.model)
