"""The models to train: plain transformers Llama, from scratch."""

from __future__ import annotations

import torch
from config import Recipe
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

CONTEXT = 1024


def build(recipe: Recipe, vocabulary: int, end: int, pad: int) -> LlamaForCausalLM:
    """A model with fresh weights."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.width // recipe.head,
        num_key_value_heads=recipe.width // recipe.head,
        head_dim=recipe.head,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, max_new_tokens=256)
    # What a layer adds to the residual stream starts small, so that depth does not blow it up.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_((2 * recipe.layers) ** -0.5)
    return model
