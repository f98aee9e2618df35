"""Tiny, randomly initialised models of the families that Stet supports, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

import tiny

VOCAB = 67
CONTEXT = 640
WINDOW = 7

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Larger than usual, so that attention is far from uniform and a wrong mask shows.
    "initializer_range": 0.4,
}

_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 32,
}


def config(family: str) -> PretrainedConfig:
    """The configuration of a tiny model of `family`, one of `FAMILIES`."""
    if family == "gpt2":
        needs_gpt2()
    return FAMILIES[family]()


def needs_transformers(version: str, what: str) -> None:
    """Skip a test of what an older transformers does not do."""
    if Version(transformers.__version__) < Version(version):
        pytest.skip(f"{what} needs transformers {version} (here {transformers.__version__})")


def needs_gpt2() -> None:
    """Before, keyword arguments do not reach the attention of a GPT-2, and Stet refuses it."""
    needs_transformers("5.4", "a GPT-2")


FAMILIES = {
    "llama": lambda: LlamaConfig(**_COMMON),
    "qwen2": lambda: Qwen2Config(**_COMMON),
    "qwen2-window": lambda: Qwen2Config(
        **_COMMON, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**_COMMON, head_dim=16),
    "mistral": lambda: MistralConfig(**_COMMON, sliding_window=WINDOW),
    "gemma2": lambda: Gemma2Config(
        **_COMMON,
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=20.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_COMMON,
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi3": lambda: Phi3Config(**_COMMON, sliding_window=WINDOW),
    "phi3-longrope": lambda: Phi3Config(
        **_COMMON,
        sliding_window=None,
        original_max_position_embeddings=32,
        rope_parameters=dict(_LONGROPE),
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.4,
    ),
}


def build(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A randomly initialised model of `family`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family), dtype=dtype)
    return model.eval()


WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789 .,;:!?+-*/=()"]


def tokenizer(words: list[str] | None = None, special: str = "</s>") -> PreTrainedTokenizerFast:
    """One token per character, words of the vocabulary in order of their ids."""
    words = words or WORDS
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(special, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def save(folder: Path, family: str = "llama", model: PreTrainedModel | None = None) -> Path:
    """A complete model folder."""
    assert len(WORDS) <= VOCAB
    (model or build(family)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_pair(place: Path, *, noise: float = 0.05, vocab: int = VOCAB) -> dict[str, Path]:
    """The folders of a target and of a draft that often agrees with it, by role."""
    large = tiny.llama(vocab=vocab, layers=3)
    small = tiny.near(large, noise)
    return {
        "target": save(place / "target", model=large),
        "draft": save(place / "draft", model=small),
    }
