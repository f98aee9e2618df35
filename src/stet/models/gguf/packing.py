"""A transformers model from a GGUF file whose matrices stay as the file has them.

On a CPU a pass over few tokens takes as long as its weights take to be read from memory, and packed
ones are a quarter of the size. Matrices of the common formats are kept, value for value; others,
and all that is no matrix, are unpacked to the dtype of the model.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from stet.core.errors import LoadError
from stet.kernels import PackedEmbedding, PackedLinear, pack_ggml, unavailable
from stet.kernels.ggml import TYPES
from stet.models.gguf.file import GgufFile, PackedWeight
from stet.models.gguf.loading import check_shapes
from stet.models.memory import readable


def stays_packed(
    asked: bool | Literal["auto"],
    file: GgufFile,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    exact: bool,
) -> bool:
    """Whether the matrices of a file are to stay packed.

    Where "auto" would have them packed but for want of a kernel, a warning says why and what it
    costs.

    Args:
        asked: what the user wants.
        file: the file.
        name: what the user calls it, for messages.
        device: of the model.
        dtype: of its activations.
        exact: whether the user asked for this dtype; float32 is then to be computed in, while
            products with packed weights round activations to 8 bits.

    Raises:
        LoadError: they are to be packed, and cannot.
    """
    if asked is False or not any(is_kept(weight) for weight in file.weights()):
        return False
    reason: str | None = None
    if device.type != "cpu":
        reason = f"the kernel for them runs on a CPU, not on {device}"
    elif dtype == torch.float16:
        reason = "the kernel for them does not compute in float16"
    if asked == "auto" and (reason is not None or (exact and dtype != torch.bfloat16)):
        return False
    reason = reason or unavailable()
    if reason is None:
        return True
    if asked is True:
        raise LoadError(
            f'The matrices of {name} cannot stay packed ({reason}); use packed="auto" '
            "(leave out --packed) to have them unpacked."
        )
    packed, plain = (readable(file.bytes_of(dtype, kept)) for kept in (is_kept, None))
    warnings.warn(
        f"The matrices of {name} are unpacked ({reason}): its weights take {plain} instead of "
        f"{packed}, and tokens several times as long.",
        RuntimeWarning,
        stacklevel=4,
    )
    return False


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
        if weight is not None and is_kept(weight) and _is_known(module):
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


def _is_known(module: nn.Module) -> bool:
    """Whether a packed layer does what this one does."""
    kind = type(module)
    scaled = kind.__module__.startswith("transformers.models.gemma") and kind.__name__.endswith(
        "TextScaledWordEmbedding"
    )
    return kind in (nn.Linear, nn.Embedding) or scaled


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
        return PackedEmbedding(packed, dtype, float(getattr(module, "embed_scale", 1.0)))
    if bias is None:
        return PackedLinear(packed)
    values = torch.empty(bias.shape)
    bias.unpack(values)
    return PackedLinear(packed, values)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another."""
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, layer)
