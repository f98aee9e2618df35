"""Taking models apart, in any precision."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

from families import FAMILIES, build
from stet.models.head import split_head

SMALL = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
}
CAPPED = Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=30.0)
SCALED = CohereConfig(**SMALL, logit_scale=0.98)
DIVIDED = GraniteConfig(**SMALL, logits_scaling=1.02)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", [CAPPED, SCALED, DIVIDED], ids=lambda c: c.model_type)
def test_what_a_head_does_is_seen_in_any_precision(config, dtype: torch.dtype) -> None:
    """Also where it changes logits by less than half precision's rounding of a small logit."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype).eval()
    body, head, width = split_head(model)
    assert body is model.model
    assert width == 67
    assert head is not None
    assert head.softcap == getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1)
    assert head.factor == factor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", [CAPPED, SCALED, DIVIDED], ids=lambda c: c.model_type)
def test_a_head_that_the_configuration_does_not_tell_of_is_refused(
    config, dtype: torch.dtype
) -> None:
    """Small random logits are hardly changed by it, which must not pass for rounding."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype).eval()
    forward = model.forward

    def odd(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 1.05
        return out

    model.forward = odd
    assert split_head(model)[:2] == (None, None)


def test_a_model_that_cuts_its_logits_itself_is_run_whole() -> None:
    model = build("llama")
    forward = model.forward

    def cut(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits[..., :60]
        return out

    model.forward = cut
    assert split_head(model) == (None, None, 60)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tested_family_is_taken_apart(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype=dtype)
    calls = []
    handle = model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    body, head, _ = split_head(model)
    handle.remove()
    assert head is not None
    assert body is not None
    assert "forward" not in vars(body)
    assert len(calls) == 1


def test_a_model_that_changes_what_its_body_reads_is_run_whole() -> None:
    model = build("llama")
    forward = model.forward
    model.forward = lambda input_ids, **rest: forward(
        inputs_embeds=2 * model.get_input_embeddings()(input_ids), **rest
    )
    assert split_head(model) == (None, None, 67)
