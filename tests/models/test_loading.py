"""Loading a model that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GraniteConfig,
    PretrainedConfig,
)

from families import CONTEXT, VOCAB, WORDS, build, config, save
from stet.engine.runner import Runner
from stet.models import load_model, prepare_model

pytestmark = pytest.mark.unit

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_a_folder(tmp_path: Path) -> None:
    folder = save(tmp_path)
    loaded = load_model(folder, role="draft", device="cpu")
    assert loaded.name == str(folder)
    assert loaded.role == "draft"
    assert loaded.max_length == CONTEXT
    assert loaded.rows == VOCAB
    assert loaded.vocab_size == len(WORDS)
    assert loaded.dtype == torch.float32
    assert loaded.device == torch.device("cpu")
    assert [layer.key_heads for layer in loaded.layers] == [2, 2, 2]
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("1+2=3")) == "1+2=3"
    assert not loaded.model.training
    assert loaded.parameter_bytes >= sum(p.nbytes for p in loaded.model.parameters())

    tokens = torch.arange(12)[None]
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        wanted = reference(input_ids=tokens).logits
    runner = Runner(loaded, max_rows=1, max_length=64)
    logits = runner.forward([runner.allocate()], tokens, [0]).logits
    # Rows without a token are left out.
    torch.testing.assert_close(logits, wanted[..., : len(WORDS)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes_pass_the_self_check(tmp_path: Path, dtype: str) -> None:
    loaded = load_model(save(tmp_path), role="target", dtype=dtype, device="cpu")
    assert loaded.dtype == getattr(torch, dtype)
    runner = Runner(loaded, max_rows=1, max_length=64)
    assert runner.cache.keys[0].dtype == loaded.dtype
    result = runner.forward([runner.allocate()], torch.zeros((1, 3), dtype=torch.long), [0])
    assert result.logits.dtype == torch.float32


def test_auto_dtype_is_the_checkpoints(tmp_path: Path) -> None:
    folder = save(tmp_path, model=build("llama", dtype=torch.bfloat16))
    assert load_model(folder, role="target", device="cpu").dtype == torch.bfloat16


def test_max_length_limits_the_context(tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path), role="target", device="cpu", max_length=100)
    assert loaded.max_length == 100


@pytest.mark.parametrize(
    "kind",
    [
        CohereConfig(**SMALL, logit_scale=0.25),
        GraniteConfig(**SMALL, logits_scaling=3.0, attention_multiplier=0.2),
    ],
    ids=["cohere", "granite"],
)
def test_scaled_heads_are_used_apart(kind: PretrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind).eval()
    tokens = torch.arange(10)[None]
    with torch.inference_mode():
        wanted = model(input_ids=tokens).logits
    loaded = prepare_model(model)
    assert loaded.head is not None
    assert loaded.head.factor != 1
    runner = Runner(loaded, max_rows=1, max_length=64)
    logits = runner.forward([runner.allocate()], tokens, [0]).logits
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


def test_a_head_of_an_unknown_kind_is_run_with_the_whole_model() -> None:
    model = build("llama")
    tokens = torch.arange(10)[None].expand(2, -1)

    class Odd(torch.nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Odd.calls += 1
            return super().forward(x) + Odd.calls  # alone, it never repeats itself

    head = Odd(32, VOCAB, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    loaded = prepare_model(model, self_check=False)
    assert loaded.head is None
    model.lm_head = torch.nn.Linear(32, VOCAB, bias=False)
    model.lm_head.weight = head.weight
    reference = Runner(prepare_model(build("llama"), self_check=False), max_rows=2, max_length=64)
    runner = Runner(loaded, max_rows=2, max_length=64)
    rows, others = ([r.allocate() for _ in range(2)] for r in (runner, reference))
    for logits in ("none", "last", "all"):
        ours = runner.forward(rows, tokens, [0, 0], [10, 4], logits=logits, hidden=True)
        wanted = reference.forward(others, tokens, [0, 0], [10, 4], logits=logits, hidden=True)
        for b, count in enumerate([10, 4]):  # what is computed of pads means nothing
            for own, other in ((ours.logits, wanted.logits), (ours.hidden, wanted.hidden)):
                own, other = own[b, :count], other[b, :count]
                torch.testing.assert_close(own, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("max_length", "factors"), [(32, "short"), (33, "long"), (None, "long")])
def test_longrope_factors_follow_the_configured_length(
    max_length: int | None, factors: str
) -> None:
    """Chosen once: neither the text's length nor batch-mates change them."""
    loaded = prepare_model(build("phi3-longrope"), max_length=max_length)
    rotary = loaded.model.base_model.rotary_emb
    wanted = torch.tensor(config("phi3-longrope").rope_parameters[f"{factors}_factor"])
    base = 10000.0 ** (torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(rotary.inv_freq, 1 / (wanted * base))
    runner = Runner(loaded, max_rows=1, max_length=max_length or 600)
    row = runner.allocate()
    runner.forward([row], torch.zeros((1, 4), dtype=torch.long), [0])
    torch.testing.assert_close(rotary.inv_freq, 1 / (wanted * base))
