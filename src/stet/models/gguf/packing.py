"""A transformers model from a GGUF file whose matrices stay as the file has them.

On a CPU a pass over few tokens takes as long as its weights take to be read from memory, and packed
ones are a quarter of the size. Matrices of the common formats are kept, value for value; others,
and all that is no matrix, are unpacked to the dtype of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from stet.kernels import PackedEmbedding, PackedLinear, pack_ggml
from stet.kernels.ggml import TYPES
from stet.models.gguf.file import GgufFile, PackedWeight
from stet.models.gguf.loading import check_shapes


def packed_model(file: GgufFile, config: Any, dtype: torch.dtype) -> Any:
    """Make the model of a file, on the CPU.

    Args:
        file: the file.
        config: its configuration.
        dtype: of activations, of keys and values, and of weights that are not kept packed.

    Raises:
        LoadError: the file lacks weights, has other ones, or they have other shapes.
    """
    check_shapes(file, config)
    with no_init_weights():  # memory that nothing was written to is none yet
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # pyright: ignore
    model.tie_weights()
    weights = {weight.name: weight for weight in file.weights()}
    has_head = "lm_head.weight" in weights
    for name, module in list(model.named_modules()):
        weight = weights.get(f"{name}.weight")
        if weight is not None and is_kept(weight) and type(module) in _PACKED:
            del weights[weight.name]
            bias = weights.pop(f"{name}.bias", None)
            _put(model, name, _packed(module, weight, bias, dtype))
    embedding = model.get_input_embeddings()
    if isinstance(embedding, PackedEmbedding) and not has_head:
        model.set_output_embeddings(PackedLinear(embedding.packed))
    places = dict(model.named_parameters())
    for weight in weights.values():
        weight.unpack(places[weight.name].data)
    return model


_PACKED = (nn.Linear, nn.Embedding)


def is_kept(weight: PackedWeight) -> bool:
    """Whether a weight can stay as the file has it."""
    return len(weight.shape) == 2 and weight.type.name in TYPES


def _packed(
    module: nn.Module, weight: PackedWeight, bias: PackedWeight | None, dtype: torch.dtype
) -> nn.Module:
    """The layer of a packed weight that takes the place of a plain one."""
    outputs, inputs = weight.shape
    packed = pack_ggml(weight.type.name, weight.ordered, (outputs, inputs))
    if isinstance(module, nn.Embedding):
        return PackedEmbedding(packed, dtype)
    if bias is None:
        return PackedLinear(packed)
    values = torch.empty(bias.shape)
    bias.unpack(values)
    return PackedLinear(packed, values)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another."""
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, layer)
