"""Checks that Stet runs a model faithfully.

Stet has its own cache and attention function. A model whose attention does something that they do
not support would run and give wrong text, so anything unknown is refused when the model is loaded.
There are three stages: the configuration, before any weight is read; a probe, which records what
each attention layer passes to the attention function; and a comparison of each layer with its
output without Stet (`stet.models.selfcheck`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface

from stet.core.errors import CompatibilityError, first_line
from stet.core.model import LayerShape, device_of
from stet.engine import attention

PROBE = "stet_probe"
"""Name of the recording attention function in transformers' `AttentionInterface`."""

_KNOWN_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})

# Keyword arguments that reach attention functions without changing what they should return.
_HARMLESS = frozenset(
    {
        "cache_position",
        "dropout",
        "layer_idx",
        "logits_to_keep",
        "num_items_in_batch",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "scaling",
        "sliding_window",
        "softcap",
        "stet_view",
        "use_cache",
    }
)


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """One rotary embedding of a configuration.

    Attributes:
        layer_type: the layers it serves; None for all.
        kind: `rope_type`.
        original_length: context of the pre-training, where the scaling has one.
    """

    layer_type: str | None
    kind: str
    original_length: int | None


def rotary_scalings(config: Any) -> list[RotaryScaling]:
    """The rotary embeddings that a text configuration describes; none for other positions."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return []
    table = cast("Mapping[str, Any]", parameters)
    found: dict[str | None, Any] = {}
    if "rope_type" not in table:  # then it may hold one entry per layer type
        found.update((key, value) for key, value in table.items() if isinstance(value, Mapping))  # pyright: ignore
    found = found or {None: table}
    return [
        RotaryScaling(
            layer_type,
            str(entry.get("rope_type", "default")),
            entry.get("original_max_position_embeddings"),
        )
        for layer_type, entry in found.items()
    ]


def context_length(config: Any) -> int | None:
    """The longest context of a model, in tokens; None where its configuration has none."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        length = getattr(text, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def check_config(config: Any, name: str, max_length: int | None) -> None:
    """Refuse a configuration that Stet cannot run faithfully.

    Args:
        config: the model's configuration.
        name: the model's name, for messages.
        max_length: the context asked for, in tokens; None: the model's own.

    Raises:
        CompatibilityError: the configuration is not supported; the message says what to do.
    """
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        raise CompatibilityError(
            f"{name} is an encoder-decoder model; choose a decoder-only (causal) language model."
        )
    unknown = sorted(set(getattr(text, "layer_types", None) or ()) - _KNOWN_LAYER_TYPES)
    if unknown:
        raise CompatibilityError(
            f"{name} has layers of type {', '.join(unknown)}, whose state Stet cannot rewind or "
            "mask; choose a model with only full and sliding-window attention."
        )
    if getattr(text, "alibi", False):
        raise CompatibilityError(
            f"{name} uses ALiBi position biases, which Stet's attention does not add; choose a "
            "model with rotary or learned positions."
        )
    causal = getattr(text, "is_causal", True)
    if causal is False or getattr(text, "use_bidirectional_attention", None):
        raise CompatibilityError(
            f"{name} attends in both directions and cannot generate text token by token; choose "
            "its causal variant."
        )
    if any(r.kind == "dynamic" for r in rotary_scalings(text)):
        raise CompatibilityError(
            f"{name} uses dynamic rotary scaling, which makes a request's text depend on its "
            "batch-mates; set rope_type to 'yarn' or 'linear' in its config.json."
        )
    limit = context_length(config)
    if max_length is not None and limit is not None and max_length > limit:
        raise CompatibilityError(
            f"{name} has a context of {limit} tokens, less than the {max_length} asked for; "
            f"ask for max_length={limit} or choose a model with a longer context."
        )


def check_class(kind: type[Any], name: str) -> None:
    """Refuse a model class whose state cannot be rewound or whose attention cannot be replaced.

    Args:
        kind: the model's class.
        name: the model's name, for messages.

    Raises:
        CompatibilityError: the class is not supported; the message says what to do.
    """
    if getattr(kind, "_is_stateful", False):
        raise CompatibilityError(
            f"{name} ({kind.__name__}) keeps a recurrent state, which cannot be rewound after a "
            "rejected token; choose a model with attention layers only."
        )
    replaceable = getattr(kind, "_can_set_attn_implementation", None)
    if replaceable is None or not replaceable():
        raise CompatibilityError(
            f"{name} ({kind.__name__}) does not use transformers' AttentionInterface, so Stet "
            "cannot replace its attention; choose a model family that does, such as Llama or Qwen."
        )


def fix_rotary_factors(model: nn.Module, config: Any, max_length: int | None) -> None:
    """Choose the factors of `longrope` once, by the configured length.

    transformers chooses them in each forward pass by the longest sequence of the batch, so a
    request's text would depend on its batch-mates and its earlier keys would not match its later
    queries. The factors for long sequences are chosen when `max_length` (or the model's context, if
    None) exceeds the length of the pre-training.
    """
    text = config.get_text_config()
    length = max_length if max_length is not None else context_length(config)
    for scaling in rotary_scalings(text):
        if scaling.kind != "longrope":
            continue
        original = scaling.original_length or getattr(
            text, "original_max_position_embeddings", None
        )
        position = 0
        if length is not None and original is not None and length > original:
            position = original
        for module in _rotary_modules(model, "longrope"):
            device = next(iter(module.buffers())).device
            hidden = torch.zeros((1, 1, 1), device=device)
            positions = torch.full((1, 1), position, device=device)
            rotary: Any = module
            if scaling.layer_type is None:
                rotary(hidden, positions)
                rotary.rope_type = "default"
            elif rotary.rope_type.get(scaling.layer_type) == "longrope":
                rotary(hidden, positions, scaling.layer_type)
                rotary.rope_type = {**rotary.rope_type, scaling.layer_type: "default"}


def _rotary_modules(model: nn.Module, kind: str) -> Iterator[nn.Module]:
    for module in model.modules():
        own: Any = getattr(module, "rope_type", None)
        own_kinds = cast("Mapping[str, Any]", own).values() if isinstance(own, Mapping) else (own,)
        if kind in own_kinds:
            yield module


class _Probe:
    """A cache for one pass that records the model's calls."""

    is_compileable = True
    is_sliding: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self.updates: list[tuple[int, Tensor, Tensor]] = []
        self.calls: list[LayerShape] = []
        self.modules: list[nn.Module] = []

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.updates.append((layer_idx, key, value))
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0


def _record(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attention function of the probe: records its arguments, refuses those that are not known."""
    probe = arguments.get("stet_view")
    if not isinstance(probe, _Probe):
        # So with a GPT-2 until transformers 5.4.
        raise CompatibilityError(
            f"transformers {transformers.__version__} gives its attention no keyword arguments"
        )
    for name, argument in sorted(arguments.items()):
        # Flags such as output_attentions and is_causal only matter where they ask for something
        # else than causal attention.
        usual = argument is None or (name == "is_causal" and argument is True)
        usual = usual or (name.startswith("output_") and argument is False)
        if name not in _HARMLESS and not usual:
            raise CompatibilityError(f"its attention takes an argument {name!r}")
    if attention_mask is not None:
        raise CompatibilityError("it builds an attention mask of its own")
    _, cached_key, cached_value = probe.updates[-1] if probe.updates else (-1, None, None)
    if key is not cached_key or value is not cached_value:
        raise CompatibilityError("an attention layer reads keys other than those it just cached")
    heads, key_heads = query.shape[1], key.shape[1]
    if heads % key_heads or value.shape[1] != key_heads:
        raise CompatibilityError(f"{heads} query heads do not divide among {key_heads} key heads")
    probe.modules.append(module)
    probe.calls.append(
        LayerShape(
            query_heads=heads,
            key_heads=key_heads,
            key_size=key.shape[3],
            value_size=value.shape[3],
            dtype=key.dtype,
            device=key.device,
            window=arguments.get("sliding_window"),
            scaling=arguments.get("scaling"),
            softcap=arguments.get("softcap"),
        )
    )
    batch, _, count, _ = query.shape
    return query.new_zeros((batch, count, heads, value.shape[3])), None


AttentionInterface.register(PROBE, _record)  # pyright: ignore[reportUnknownMemberType]


@torch.inference_mode()
def probe_layers(model: Any, name: str) -> tuple[tuple[LayerShape, ...], list[nn.Module]]:
    """Run one short pass and record what each attention layer caches and passes to attention.

    The model's attention is set to Stet's afterwards.

    Returns:
        The layers, and the attention modules, in the order they are called in.

    Raises:
        CompatibilityError: the model's attention does something that Stet does not know.
    """
    probe = _Probe()
    device = device_of(model.get_input_embeddings())
    tokens = torch.zeros((1, 2), dtype=torch.long, device=device)
    positions = torch.arange(2, device=device).unsqueeze(0)
    model.set_attn_implementation(PROBE)
    try:
        model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=probe,
            use_cache=True,
            stet_view=probe,
        )
    except Exception as error:
        reason = first_line(error)
        raise CompatibilityError(
            f"{name} cannot be run with Stet's attention ({reason}); choose another model."
        ) from error
    finally:
        model.set_attn_implementation(attention.NAME)
    text: Any = model.config.get_text_config()
    layers = text.num_hidden_layers
    if len(probe.calls) != layers or [u[0] for u in probe.updates] != list(range(layers)):
        raise CompatibilityError(
            f"{name} has {layers} layers but {len(probe.calls)} calls of attention and "
            f"{len(probe.updates)} of the cache, so its layers share or skip keys; choose a model "
            "in which each layer attends to its own."
        )
    _check_windows(probe.calls, text, name)
    return tuple(probe.calls), probe.modules


def _check_windows(calls: list[LayerShape], text: Any, name: str) -> None:
    """Refuse a model whose layers pass other windows than its configuration states."""
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    for index, call in enumerate(calls):
        expected = {window} if types is None or types[index] == "sliding_attention" else {None}
        if types is not None and len(set(types)) == 1:
            # Models that treat all layers alike (Mistral, Phi-3) go by the window alone.
            expected = {window} if call.window is not None else expected
        if call.window not in expected:
            raise CompatibilityError(
                f"layer {index} of {name} asks for a window of {call.window}, its configuration "
                f"for {next(iter(expected))}; correct layer_types or sliding_window in its "
                "config.json."
            )
