"""Reads a transformers model into a `Decoder`, where every part of it is known.

Nothing is guessed: the class of every module, the names of its parts and of all its parameters must
be those of a family below, and how each layer attends is what it passed to attention in the probe
at load. Whatever else there is (a quantised matrix, a hook, a part on another device) leaves the
passes to transformers' own module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, SiLUActivation

from stet.core.model import LayerShape
from stet.decoder.decoder import Decoder, Layer
from stet.decoder.linear import Linear, joined
from stet.decoder.norm import Norm
from stet.decoder.rotary import Rotary
from stet.kernels import PackedEmbedding, PackedLinear

_BODIES = {
    "gemma": "GemmaModel",
    "gemma2": "Gemma2Model",
    "gemma3": "Gemma3TextModel",
    "granite": "GraniteModel",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "phi3": "Phi3Model",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
}
"""The families, by the name of their module in transformers, and the class of their body."""

_SCALED = frozenset({"gemma", "gemma2"})
"""Families whose embeddings are scaled by the root of their width, by the model up to transformers
5.3 and by the embedding itself since."""

_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary scaling that do not depend on the length of a text. `longrope` is `default` by
the time that a model is read: its factors were chosen once."""

_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    GELUActivation: F.gelu,
    GELUTanh: partial(F.gelu, approximate="tanh"),
    SiLUActivation: F.silu,
    nn.SiLU: F.silu,
}


_PACKED = (PackedLinear, PackedEmbedding)
_PLAIN = (nn.Linear, nn.Embedding, nn.ModuleList, nn.Dropout, PackedLinear, PackedEmbedding)


class UnknownPart(Exception):
    """A model has a part that the decoder does not know; the message names it."""


@torch.no_grad()
def read_decoder(body: Any, shapes: Sequence[LayerShape]) -> Decoder:
    """Read a decoder from the body of a transformers model, on the same weights.

    The parameters of projections that share an input become views of one tensor; the body goes on
    to work by itself. Weights may be written to afterwards, but not replaced; norms are read once.

    Args:
        body: the model without its head.
        shapes: of its attention layers, from the probe at load.

    Raises:
        UnknownPart: the model has a part that a decoder would have to guess at.
    """
    family = _family(body)
    for name, module in body.named_modules():
        _check_plain(module, name, family)
    _check_tensors(body)
    parts = _parts(body, {"embed_tokens", "layers", "norm", "rotary_emb"})
    layers = list(parts["layers"])
    if not len(layers) == len(shapes) == body.config.num_hidden_layers:
        raise UnknownPart(f"{len(layers)} layers")
    embedding = parts["embed_tokens"]
    kinds = _rotary_kinds(body, len(layers))
    names = sorted(set(kinds), key=str)
    return Decoder(
        embedding=_lookup(embedding),
        scale=_embedding_scale(body, embedding, family),
        rotaries=[_rotary(parts["rotary_emb"], parts["norm"].weight, name) for name in names],
        layers=[
            _layer(index, layer, shape, names.index(kind))
            for index, (layer, shape, kind) in enumerate(zip(layers, shapes, kinds, strict=True))
        ],
        norm=_norm(parts["norm"]),
    )


def is_known(body: Any) -> bool:
    """Whether a body is of one of the families, by its class."""
    try:
        _family(body)
    except UnknownPart:
        return False
    return True


def _family(body: Any) -> str:
    """The family of a body, by its class."""
    kind = type(body)
    family = kind.__module__.split(".")[-2] if kind.__module__.count(".") > 1 else ""
    if kind.__module__ != _module_of(family) or kind.__name__ != _BODIES.get(family):
        raise UnknownPart(kind.__name__)
    return family


def _module_of(family: str) -> str:
    return f"transformers.models.{family}.modeling_{family}"


def _check_plain(module: Any, name: str, family: str) -> None:
    """Refuse a module of a class from elsewhere, or whose calls are watched or replaced."""
    kind = type(module)
    known = kind in _PLAIN or kind in _ACTIVATIONS
    if not known and kind.__module__ != _module_of(family):
        raise UnknownPart(f"a {kind.__name__} at {name}")
    own = vars(module)
    if (
        "forward" in own
        or "_hf_hook" in own
        or own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_parameters"].keys() - {"weight", "bias"}
        or (own["_buffers"].keys() - own["_non_persistent_buffers_set"] and kind not in _PACKED)
    ):
        raise UnknownPart(f"a changed {kind.__name__} at {name}")


def _check_tensors(body: Any) -> None:
    """Refuse weights of several dtypes or devices, and weights that are not in memory."""
    weights = list(body.parameters())
    first = weights[0]
    for weight in weights:
        if (
            type(weight) is not nn.Parameter
            or weight.dtype != first.dtype
            or weight.device != first.device
            or not weight.is_contiguous()
        ):
            raise UnknownPart(f"weights of {weight.dtype} on {weight.device}")
    if first.device.type == "meta" or not first.is_floating_point():
        raise UnknownPart(f"weights of {first.dtype} on {first.device}")


def _parts(module: Any, needed: set[str], possible: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The parts of a module, by name."""
    parts = dict(module.named_children())
    if not needed <= parts.keys() <= needed | possible:
        raise UnknownPart(f"the parts of {type(module).__name__}")
    return parts


def _layer(index: int, layer: Any, shape: LayerShape, rotary: int) -> Layer:
    """Read one layer."""
    sandwich = frozenset({"pre_feedforward_layernorm", "post_feedforward_layernorm"})
    dropouts = frozenset({"resid_attn_dropout", "resid_mlp_dropout"})
    parts = _parts(
        layer,
        {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
        sandwich | dropouts,
    )
    second = _norm(parts["post_attention_layernorm"])
    inner = sandwich & parts.keys()
    if inner and inner != sandwich:
        raise UnknownPart(f"the norms of {type(layer).__name__}")
    qkv, out, heads_norm = _attention(parts["self_attn"], shape)
    gate_up, down, activation = _mlp(parts["mlp"])
    return Layer(
        index=index,
        qkv=qkv,
        out=out,
        gate_up=gate_up,
        down=down,
        activation=activation,
        before_attention=_norm(parts["input_layernorm"]),
        after_attention=second if inner else None,
        before_mlp=_norm(parts["pre_feedforward_layernorm"]) if inner else second,
        after_mlp=_norm(parts["post_feedforward_layernorm"]) if inner else None,
        heads_norm=heads_norm,
        heads=shape.query_heads,
        key_heads=shape.key_heads,
        size=shape.key_size,
        rotary=rotary,
        scaling=shape.scaling,
        window=shape.window,
        softcap=shape.softcap,
        share=float(getattr(layer, "residual_multiplier", 1.0)),
    )


def _attention(attention: Any, shape: LayerShape) -> tuple[Linear, Linear, Norm | None]:
    """Read the projections of attention, and the norm of queries and keys."""
    whole = hasattr(attention, "qkv_proj")
    names = ["qkv_proj"] if whole else ["q_proj", "k_proj", "v_proj"]
    parts = _parts(attention, {*names, "o_proj"}, frozenset({"q_norm", "k_norm"}))
    linears = [parts[name] for name in names]
    qkv = _joined(linears)
    heads = shape.query_heads + 2 * shape.key_heads
    outputs = sum(linear.out_features for linear in linears)
    if shape.key_size != shape.value_size or outputs != heads * shape.key_size:
        raise UnknownPart("heads of several sizes")
    qkv = _joined([parts[name] for name in names])
    norm = None
    if "q_norm" in parts:
        queries, keys = _norm(parts["q_norm"]), _norm(parts["k_norm"])
        if queries.epsilon != keys.epsilon:
            raise UnknownPart("norms that differ")
        weights = [queries.weight] * shape.query_heads + [keys.weight] * shape.key_heads
        norm = Norm(torch.stack(weights).unsqueeze(1), queries.epsilon)
    return qkv, joined([parts["o_proj"]]), norm


def _mlp(mlp: Any) -> tuple[Linear, Linear, Callable[[Tensor], Tensor]]:
    """Read the projections of the gated part and its activation."""
    whole = hasattr(mlp, "gate_up_proj")
    names = ["gate_up_proj"] if whole else ["gate_proj", "up_proj"]
    activation = "activation_fn" if whole else "act_fn"
    parts = _parts(mlp, {*names, "down_proj", activation})
    function = _ACTIVATIONS.get(type(parts[activation]))
    if function is None:
        raise UnknownPart(f"the activation {type(parts[activation]).__name__}")
    return _joined([parts[name] for name in names]), joined([parts["down_proj"]]), function


def _joined(linears: list[nn.Linear | PackedLinear]) -> Linear:
    if len({linear.bias is None for linear in linears}) > 1:
        raise UnknownPart("a bias of some projections alone")
    return joined(linears)


def _norm(norm: Any) -> Norm:
    """Read a norm; Gemma's weights are distances from one, in float32."""
    weight = norm.weight.detach()
    if type(norm).__name__.startswith("Gemma"):
        return Norm(1.0 + weight.float(), norm.eps)
    return Norm(weight, norm.variance_epsilon)


def _embedding_scale(body: Any, embedding: Any, family: str) -> float:
    """The factor of the embedding, as it is rounded in the model's dtype."""
    scale = getattr(embedding, "embed_scale", None)
    if scale is not None:
        return float(scale.to(embedding.weight.dtype))
    packed = type(embedding) is PackedEmbedding
    if not packed and (type(embedding) is not nn.Embedding or embedding.max_norm is not None):
        raise UnknownPart(f"the embedding {type(embedding).__name__}")
    if family in _SCALED and not (packed and embedding.scale != 1.0):
        return float(torch.tensor(body.config.hidden_size**0.5, dtype=body.dtype))
    return float(getattr(body, "embedding_multiplier", 1.0))


def _lookup(embedding: Any) -> Callable[[Tensor], Tensor]:
    """The function that looks tokens up."""
    if type(embedding) is PackedEmbedding:
        return embedding.forward
    return partial(torch.embedding, embedding.weight.detach())


def _rotary_kinds(body: Any, layers: int) -> list[str | None]:
    """Which rotary embedding each layer uses; None where there is one for all."""
    if not isinstance(body.rotary_emb.rope_type, dict):
        return [None] * layers
    return list(body.config.layer_types)


def _rotary(module: Any, like: Tensor, kind: str | None) -> Rotary:
    """Read a rotary embedding."""
    scaling = module.rope_type if kind is None else module.rope_type.get(kind)
    if scaling not in _ROTATIONS:
        raise UnknownPart(f"{scaling} rotary scaling")
    arguments = () if kind is None else (kind,)

    def compute(positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = module(like[:0], positions, *arguments)
        return cos, sin

    return Rotary(compute, like.device)
