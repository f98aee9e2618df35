"""Small GGUF files, written with the gguf package as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

if Version(transformers.__version__) < Version("5.17"):
    pytest.skip("GGUF files need transformers 5.17", allow_module_level=True)

BYTES = list(bytes_to_unicode().values())
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ 1", "1 2"]
TOKENS = [*BYTES, *(merge.replace(" ", "") for merge in MERGES)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PADDING = [f"[PAD{len(TOKENS) + len(SPECIAL) + i}]" for i in range(5)]
VOCABULARY = [*TOKENS, *SPECIAL, *PADDING]
TYPES = [1] * len(TOKENS) + [3] * len(SPECIAL) + [5] * len(PADDING)
END = VOCABULARY.index("<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMON = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "bos_token_id": VOCABULARY.index("<|endoftext|>"),
    "eos_token_id": END,
    "pad_token_id": VOCABULARY.index("<|endoftext|>"),
    "initializer_range": 0.1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}
GEMMA = {**COMMON, "head_dim": 32, "sliding_window": 5, "query_pre_attn_scalar": 32}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**COMMON),
    "qwen2": lambda: Qwen2Config(**COMMON),
    "qwen3": lambda: Qwen3Config(**COMMON, head_dim=64),
    "gemma2": lambda: Gemma2Config(**GEMMA),
    "gemma3": lambda: Gemma3TextConfig(
        **{
            **GEMMA,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": COMMON["rope_parameters"],
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        }
    ),
    "phi3": lambda: Phi3Config(**COMMON, sliding_window=5),
}
"""Configurations by the name that GGUF files use."""


def build(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model whose norms and biases, too, are random."""
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
            elif "embed" in name:
                weight.mul_(5)
    return model


def settings(model: PreTrainedModel, family: str) -> dict[str, Any]:
    """The settings that a file of a model has, but for its tokenizer."""
    config: Any = model.config
    window = getattr(config, "sliding_window", None)
    rotary = config.rope_parameters
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": size,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": rotary.get("full_attention", rotary)["rope_theta"],
        "rope.dimension_count": size,
    }
    if window:
        found["attention.sliding_window"] = window
    return {f"{family}.{key}": value for key, value in found.items()}


def tokenizer_settings(rule: str = "qwen2") -> dict[str, Any]:
    """The settings of a small tokenizer that spells bytes."""
    found = {
        "model": "gpt2",
        "pre": rule,
        "tokens": VOCABULARY,
        "token_type": TYPES,
        "merges": MERGES,
        "bos_token_id": VOCABULARY.index("<|endoftext|>"),
        "eos_token_id": END,
        "padding_token_id": VOCABULARY.index("<|endoftext|>"),
        "add_bos_token": False,
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    return {**named, "tokenizer.chat_template": TEMPLATE}


def tensors(model: PreTrainedModel, family: str) -> dict[str, np.ndarray]:
    """A model's weights under the names and in the order of a GGUF file."""
    config: Any = model.config
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found: dict[str, np.ndarray] = {}
    for name, weight in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        values = weight.detach().numpy()
        if family == "llama" and stem.endswith(("q_proj", "k_proj")):
            q = stem.endswith("q_proj")
            heads = config.num_attention_heads if q else config.num_key_value_heads
            halves = values.reshape(heads, 2, -1, *values.shape[1:])
            values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        if family.startswith("gemma") and stem.endswith("norm"):
            values = values + 1
        new = names.get_name(stem)
        assert new is not None, name
        found[f"{new}.{suffix}"] = values
    return found


def packed(values: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """Values in a packed format; random ones, if it is one that the gguf package only reads."""
    number = gguf.GGMLQuantizationType[kind]
    try:
        return gguf.quants.quantize(values, number)
    except NotImplementedError:
        pass
    block, size = gguf.GGML_QUANT_SIZES[number]
    generator = np.random.default_rng(seed)
    count = values.size // block
    raw = generator.integers(0, 256, (count, size), dtype=np.uint8)
    scales = np.abs(generator.normal(0, 2e-3, (count, 2))) + 1e-4
    for place, scale in zip(SCALES[kind], scales.T, strict=False):
        raw[:, place : place + 2] = scale.astype(np.float16)[:, None].view(np.uint8)
    return raw.reshape(values.shape[0], -1)


SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "IQ3_S": (0,),
    "IQ2_XS": (0,),
}
"""Where the float16 numbers of a block lie; any other byte may have any value."""


def write(
    path: Path,
    model: PreTrainedModel,
    family: str,
    kind: str = "F32",
    *,
    kinds: dict[str, str] | None = None,
    rule: str = "qwen2",
    parts: int = 1,
    extra: dict[str, np.ndarray] | None = None,
    **changes: Any,
) -> Path:
    """Write a model to a file.

    Args:
        path: the file; the first of several, if there are several parts.
        model: the model.
        family: its name in GGUF files.
        kind: the format of its matrices.
        kinds: formats of single tensors, by their names in the file.
        rule: how its tokenizer splits texts.
        parts: how many files to divide the tensors among.
        extra: further tensors.
        **changes: other settings, with "__" for a dot; None leaves one out.
    """
    named = {**settings(model, family), **tokenizer_settings(rule)}
    named |= {key.replace("__", "."): value for key, value in changes.items()}
    weights = {**tensors(model, family), **(extra or {})}
    every = list(weights)
    for part in range(parts):
        name = (
            path if parts == 1 else path.with_name(path.name.replace("00001-", f"{part + 1:05}-"))
        )
        writer = gguf.GGUFWriter(name, named.pop("general.architecture", family))
        if parts > 1:
            writer.add_uint16("split.no", part)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(every))
        for key, value in named.items() if part == 0 else ():
            _add(writer, key, value)
        for key in every[part::parts]:
            values = weights[key]
            wanted = (kinds or {}).get(key, kind if values.ndim > 1 else "F32")
            raw = packed(values, wanted, seed=every.index(key))
            number = gguf.GGMLQuantizationType[wanted]
            writer.add_tensor(key, raw, raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
