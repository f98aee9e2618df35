"""A model that computes the same with other weights, which lie on no grid.

The folders at hand were unpacked from 4-bit files, so their weights are multiples of a scale for
each 32 inputs, and rounding them to 4 bits again finds nearly the same multiples: it would show the
loss of a model that has lost it before. Here factors go through each matrix and come out of the one
before it, which changes no result but for rounding, and leaves no two weights of a group on a grid.
Rounding to 4 bits then changes a matrix by 7.6 % of its norm (SmolLM2-135M), normally distributed
weights by 7.4 %, and those on the file's grid by 0.9 %.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

SPREAD = 0.35
"""The logarithm of a factor lies between minus and plus this."""


def save_off_grid(source: Path, folder: Path) -> None:
    """Write a model of the Llama or Qwen 2 shape, moved off the grid, once."""
    if (folder / "config.json").is_file():
        return
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            _move_layer(layer, model.config, made)
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    for path in source.iterdir():
        if not (part / path.name).exists():
            shutil.copy2(path, part / path.name)
    part.rename(folder)


def _move_layer(layer: Any, config: Any, made: torch.Generator) -> None:
    attention, mlp = layer.self_attn, layer.mlp

    def factors(count: int) -> Tensor:
        return ((torch.rand(count, generator=made) * 2 - 1) * SPREAD).exp()

    for norm, readers in (
        (layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]),
        (layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]),
    ):
        before = norm.weight.float()
        norm.weight.copy_((before / factors(len(before))).bfloat16())
        exact = torch.where(norm.weight == 0, 1.0, before / norm.weight.float())
        for reader in readers:
            _scale(reader.weight, exact)
    inner = factors(mlp.up_proj.out_features)
    _scale(mlp.up_proj.weight, inner[:, None])
    _scale(mlp.down_proj.weight, 1 / inner)
    values = factors(attention.v_proj.out_features)
    _scale(attention.v_proj.weight, values[:, None])
    if attention.v_proj.bias is not None:
        _scale(attention.v_proj.bias, values)
    size = attention.head_dim
    groups = config.num_attention_heads // config.num_key_value_heads
    heads = values.view(-1, size).repeat_interleave(groups, 0)
    _scale(attention.o_proj.weight, 1 / heads.flatten())


def _scale(weight: Tensor, factor: Tensor) -> None:
    weight.copy_((weight.float() * factor).bfloat16())
