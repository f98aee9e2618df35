"""Matrices of a transformers model brought into the layouts of the CPU's kernels.

On a CPU a pass over few tokens takes as long as its weights take to be read from memory. Those of
bfloat16 are arranged so that they are read at full speed, and keep their values; those that are
quantised are read in half or a quarter of the time, and are rounded. Each takes the place of the
plain matrix at once, so that at no time two copies of a model are in memory.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import nn

from stet.core.errors import CompatibilityError, OptionError
from stet.decoder.reading import is_known
from stet.kernels import PackedEmbedding, PackedLinear, arrange, quantise, unavailable
from stet.kernels.native import Weight
from stet.models.quantised import method_of

Quantize = Literal["int8", "int4"]
"""Formats that weights can be rounded to at load: 8.5 and 4.625 bits a weight, scales included."""

BITS: dict[str, int] = {"int8": 8, "int4": 4}
"""Bits of a weight, by the format."""

BITS_OF_ENDS = 8
"""Bits of embedding and head, whatever the rest is rounded to: both are a token's only row."""


def check_quantize(quantize: str | None, name: str, device: torch.device, device_map: Any) -> None:
    """Refuse a format that is not known, and devices that have no kernel for it.

    Raises:
        OptionError: either; the message says what to do.
    """
    if quantize is None:
        return
    if quantize not in BITS:
        raise OptionError(f"quantize={quantize!r} is not known; use one of {', '.join(BITS)}.")
    if device.type != "cpu" or device_map is not None:
        raise OptionError(
            f"quantize={quantize!r} is for models on a CPU, and {name} goes to "
            f'{device if device_map is None else "several devices"}: use device="cpu", or give a '
            "quantised checkpoint."
        )


def check_not_quantised(quantize: str | None, name: str, config: Any) -> None:
    """Refuse to quantise a model that is quantised.

    Raises:
        CompatibilityError: it is; the message says what to do.
    """
    method = method_of(config)
    if quantize is not None and method is not None:
        raise CompatibilityError(
            f"{name} is quantised already, with {method}; leave quantize={quantize!r} out, or give "
            "the model unquantised."
        )


def keep_for_kernels(model: Any, name: str, quantize: str | None, *, plain: bool = False) -> None:
    """Bring the matrices of a model on the CPU into the kernels' layouts, in its place.

    Without `quantize` those of bfloat16 are arranged, where the kernel can be had. What they are
    rounded to is the same where it cannot: they are then plain matrices of the rounded values.

    Args:
        model: the model; its matrices are exchanged for `PackedLinear`s.
        name: for messages.
        quantize: the format that weights are rounded to; None: they keep their values.
        plain: leave the matrices to torch, and round them to plain ones.

    Raises:
        CompatibilityError: the model is of no family of which it is known what would be rounded.
    """
    reason = unavailable()
    if not is_known(getattr(model, model.base_model_prefix, None)):
        if quantize is not None:
            raise CompatibilityError(
                f"quantize={quantize!r} is for the families that Stet's own decoder runs, and "
                f"{name} is a {model.config.model_type} model; give a quantised checkpoint."
            )
        return
    if plain or reason is not None:
        if quantize is None:
            return
        if not plain:
            warnings.warn(
                f"The weights of {name} are rounded to {quantize}, and kept in {model.dtype}, "
                f"which takes more time and memory: {reason}.",
                RuntimeWarning,
                stacklevel=2,
            )
        _round_in_place(model, quantize)
        return
    _exchange(model, quantize)


def _bits(module: nn.Module, model: Any, quantize: str) -> int:
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return BITS_OF_ENDS if module in ends else BITS[quantize]


def _is_kept(module: nn.Module, model: Any, quantize: str | None) -> bool:
    """Whether a module has a matrix that goes into a kernel's layout."""
    if type(module) is nn.Linear:
        return quantize is not None or module.weight.dtype == torch.bfloat16
    # An embedding by itself gains no time; rounded it gains memory.
    return quantize is not None and module is model.get_input_embeddings()


def _exchange(model: Any, quantize: str | None) -> None:
    """Put a `PackedLinear` in the place of each matrix, and one weight in that of a shared one."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = type(head) is nn.Linear and head.weight is embedding.weight
    dtype = model.dtype
    for name, module in list(model.named_modules()):
        if module is embedding or not _is_kept(module, model, quantize):
            continue
        bits = 16 if quantize is None else _bits(module, model, quantize)
        bias = None if module.bias is None else module.bias.detach()
        layer = PackedLinear(_packed(module, bits), bias, dtype)
        _put(model, name, layer)
        if shared and module is head:
            model.set_input_embeddings(_looking_up(embedding, layer.packed, dtype))
    if not shared and _is_kept(embedding, model, quantize):
        weight = _packed(embedding, BITS_OF_ENDS)
        model.set_input_embeddings(_looking_up(embedding, weight, dtype))


def _packed(module: Any, bits: int) -> Weight:
    weight = module.weight.detach()
    return arrange(weight) if bits == 16 else quantise(weight, bits)


def _looking_up(embedding: Any, weight: Weight, dtype: torch.dtype) -> PackedEmbedding:
    """The embedding of a weight, with the factor that some families' embeddings have."""
    return PackedEmbedding(weight, dtype, float(getattr(embedding, "embed_scale", 1.0)))


@torch.no_grad()
def _round_in_place(model: Any, quantize: str) -> None:
    """Write the rounded values over the plain ones, each once."""
    seen: set[int] = set()
    for module in model.modules():
        if _is_kept(module, model, quantize) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            bits = _bits(module, model, quantize)
            # Not into the same memory, which may be a file's.
            module.weight.data = quantise(module.weight, bits).dequantise(module.weight.dtype)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another."""
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, layer)
