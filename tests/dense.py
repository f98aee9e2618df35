"""Tiny models of every shape that Stet's own decoder runs."""

from __future__ import annotations

from copy import deepcopy

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from families import CONTEXT, VOCAB, WINDOW

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.4,
}


def rope(kind: str, **more: float) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **more}}


DENSE: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-one-key-head": LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
    "llama-all-key-heads": LlamaConfig(**{**SIZES, "num_key_value_heads": 4}),
    "llama-odd-heads": LlamaConfig(**{**SIZES, "hidden_size": 36}, head_dim=14),
    "llama-gelu": LlamaConfig(**SIZES, hidden_act="gelu"),
    "llama-linear": LlamaConfig(**SIZES, **rope("linear", factor=4.0)),
    "llama-llama3": LlamaConfig(
        **SIZES,
        **rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "llama-yarn": LlamaConfig(
        **SIZES, **rope("yarn", factor=4.0, original_max_position_embeddings=160)
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral-window": MistralConfig(**SIZES, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-window": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gemma2": Gemma2Config(
        **SIZES,
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=12,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=20.0,
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "granite": GraniteConfig(
        **SIZES,
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.7,
        logits_scaling=2.0,
    ),
    "phi3": Phi3Config(**SIZES, sliding_window=WINDOW, pad_token_id=0),
    "phi3-partial": Phi3Config(
        **SIZES, pad_token_id=0, **rope("default", partial_rotary_factor=0.5)
    ),
    "phi3-longrope": Phi3Config(
        **SIZES,
        pad_token_id=0,
        original_max_position_embeddings=32,
        **rope("longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 2.0, 4.0, 8.0]),
    ),
}


def dense(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A random model whose norms and biases are no constants."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(deepcopy(DENSE[kind]), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
            elif name.endswith("bias"):
                weight.normal_(0, 0.5)
    return model.to(dtype)
