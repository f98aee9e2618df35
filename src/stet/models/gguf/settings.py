"""A GGUF file's settings as a transformers configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from stet.core.errors import CompatibilityError, LoadError, first_line
from stet.models.gguf.architecture import ROTARY_FACTORS, Architecture
from stet.models.gguf.header import Header
from stet.models.gguf.unpacking import unpack

_LARGEST_GEMMAS = {"gemma2": 46, "gemma3": 62}
"""Layers of the one model of each family (27B) that scales queries by its width."""

_USUAL_BASE = dict.fromkeys(("llama", "qwen2", "qwen3", "gemma2", "phi3"), 10000.0)
"""The base of rotary embeddings where a file does not say it. Files of Gemma 3 must: those that do
not were made by another program than llama.cpp, which has settings of its own."""

_EVERY_GEMMA_3 = 6  # of these layers, the last attends to everything


def config_of(header: Header, architecture: Architecture) -> Any:
    """The configuration of the model in a file.

    Raises:
        LoadError: a setting is missing, or has a value that it cannot have.
        CompatibilityError: the model needs something that Stet, or transformers, does not do.
    """
    reader = _Reader(header, architecture.name)
    if reader.integer("expert_count", 0):
        raise CompatibilityError(
            f"{header.name} holds a mixture of experts, which Stet does not read from GGUF files; "
            "give the folder or hub name of the transformers model that it was made from."
        )
    heads, width = reader.integer("attention.head_count"), reader.integer("embedding_length")
    usual = max(width // heads, 1)
    turned = reader.integer("rope.dimension_count", usual)
    usual = turned if architecture.name == "llama" else usual
    head_size = reader.integer("attention.key_length", usual)
    if reader.integer("attention.value_length", head_size) != head_size:
        raise CompatibilityError(
            f"{header.name} has keys and values of different sizes, which transformers' "
            f"{architecture.model_type} models cannot have; choose another model."
        )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise LoadError(f"{header.name} lacks its embedding; get the file again.")
    ids = {
        role: reader.token(f"{name}_token_id")
        for role, name in {"bos": "bos", "eos": "eos", "pad": "padding"}.items()
    }
    settings: dict[str, Any] = {
        "max_position_embeddings": reader.integer("context_length"),
        "num_hidden_layers": reader.integer("block_count"),
        "hidden_size": width,
        "intermediate_size": reader.integer("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": reader.integer("attention.head_count_kv", heads),
        "head_dim": head_size,
        "rms_norm_eps": reader.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": embedding.shape[0],
        # Like llama.cpp: a head that is in the file is used, also where the published model shares
        # it with the embedding. The two may be packed differently, and so differ in value.
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **{f"{role}_token_id": token for role, token in ids.items()},
    }
    # Each layer brings tensors, so that a number which is far off costs nothing.
    if settings["num_hidden_layers"] > len(header.tensors):
        raise reader.wrong("block_count")
    rotary = _rotary(reader, head_size, turned)
    if architecture.name == "llama":
        settings["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
        settings["mlp_bias"] = "blk.0.ffn_gate.bias" in header.tensors
    if architecture.name in _LARGEST_GEMMAS:
        largest = settings["num_hidden_layers"] == _LARGEST_GEMMAS[architecture.name]
        settings["query_pre_attn_scalar"] = width // heads if largest else head_size
    if architecture.name == "phi3":
        settings["sliding_window"] = reader.integer("attention.sliding_window", 0) or None
    if architecture.name == "gemma2":
        # Early files leave it to llama.cpp.
        settings["sliding_window"] = reader.integer("attention.sliding_window", 4096)
        settings["attn_logit_softcapping"] = reader.number("attn_logit_softcapping", 50.0)
        settings["final_logit_softcapping"] = reader.number("final_logit_softcapping", 30.0)
    if architecture.name == "gemma3":
        settings["sliding_window"] = reader.integer("attention.sliding_window")
        settings["sliding_window_pattern"] = reader.integer(
            "attention.sliding_window_pattern", _EVERY_GEMMA_3
        )
        local = {"rope_type": "default", "rope_theta": reader.number("rope.freq_base_swa", 1e4)}
        rotary = {"full_attention": rotary, "sliding_attention": local}
    if "original_max_position_embeddings" in rotary:
        settings["original_max_position_embeddings"] = rotary["original_max_position_embeddings"]
    try:
        return AutoConfig.for_model(  # pyright: ignore
            architecture.model_type, rope_parameters=rotary, **settings
        )
    except Exception as error:  # transformers raises errors of many kinds
        raise LoadError(
            f"The settings of {header.name} make no {architecture.model_type} model "
            f"({first_line(error)}); get the file again."
        ) from error


def _rotary(reader: _Reader, head_size: int, turned: int) -> dict[str, Any]:
    """The rotary embedding, as transformers describes it."""
    usual = _USUAL_BASE.get(reader.prefix)
    base: dict[str, Any] = {"rope_theta": reader.number("rope.freq_base", usual)}
    if turned != head_size:
        base["partial_rotary_factor"] = turned / head_size
    if any(name in reader.header.tensors for name in ROTARY_FACTORS):
        # Also of Llama 3: its scaling is in the file as the factors that come of it.
        short, long = (reader.factors(name, turned // 2) for name in ("short", "long"))
        length = reader.integer("context_length")
        return {
            **base,
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "attention_factor": reader.number("rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": reader.integer(
                "rope.scaling.original_context_length", length
            ),
        }
    old = reader.number("rope.scale_linear", 1.0)  # in files of the first years
    kind = reader.header.settings.get(f"{reader.prefix}.rope.scaling.type")
    kind = kind or ("none" if old == 1 else "linear")
    if kind == "none":
        return {**base, "rope_type": "default"}
    if kind not in ("linear", "yarn"):
        raise CompatibilityError(
            f"{reader.header.name} scales its rotary embedding in the way {str(kind)[:40]!r}, "
            "which Stet does not read from GGUF files; give the transformers model's folder."
        )
    found = {**base, "rope_type": kind, "factor": reader.number("rope.scaling.factor", old)}
    if kind == "yarn":
        found["original_max_position_embeddings"] = reader.integer(
            "rope.scaling.original_context_length"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads settings of the right kind.

    Attributes:
        header: the file's front matter.
        prefix: what the names of the model's settings begin with.
    """

    header: Header
    prefix: str

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number, or its default."""
        value: Any = self.header.settings.get(f"{self.prefix}.{name}", default)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not (0 < value < 2**31 or value == default):
            raise self.wrong(name)
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number, or its default."""
        value = self.header.settings.get(f"{self.prefix}.{name}", default)
        if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise self.wrong(name)
        return float(value)

    def token(self, name: str) -> int | None:
        """The id of a token, which the file need not name."""
        tokens = self.header.settings.get("tokenizer.ggml.tokens")
        value = self.header.settings.get(f"tokenizer.ggml.{name}")
        if isinstance(value, int) and isinstance(tokens, list) and 0 <= value < len(tokens):
            return value
        return None

    def factors(self, which: str, count: int) -> list[float]:
        """The short or long factors of the rotary embedding, which may be the same."""
        names = ("rope_freqs.weight", f"rope_factors_{which}.weight")
        found = next((self.header.tensors[n] for n in names if n in self.header.tensors), None)
        if found is None or found.shape != (count,) or found.type.is_packed:
            raise LoadError(
                f"{self.header.name} lacks the {which} factors of its rotary embedding; get the "
                "file again."
            )
        values = torch.empty(found.raw.shape[0], count)
        unpack(found.type, found.raw, values)
        return values[0].tolist()

    def wrong(self, name: str) -> LoadError:
        """The error for a setting that is missing or cannot be."""
        key = f"{self.prefix}.{name}"
        value = self.header.settings.get(key)
        what = "lacks the setting" if value is None else f"has {str(value)[:40]!r} for the setting"
        return LoadError(f"{self.header.name} {what} {key}; get the file again.")
