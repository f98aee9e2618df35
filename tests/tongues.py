"""Tokenizers of different kinds, trained here, and tiny models that speak with them."""

from __future__ import annotations

import json
import string
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stet.bundled import generate

END = "</s>"


@cache
def corpus() -> tuple[str, ...]:
    """Word problems with their solutions, and every printable character of ASCII."""
    problems = generate("stories", "calibration", 60)
    texts = [f"{p.text}\nSo 3 + 4 = 7.\n\nThe answer is {i}.\n" for i, p in enumerate(problems)]
    return (*texts, *string.printable[:95])


def wrapped(core: Tokenizer, **more: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, **more)


@cache
def byte_level(size: int, prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(corpus(), trainer)
    return wrapped(core)


@cache
def unigram(size: int = 300) -> PreTrainedTokenizerFast:
    """A unigram model that marks spaces, and strips one where a text begins."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=[END, "<unk>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(corpus(), trainer)
    return wrapped(core, unk_token="<unk>")


@cache
def byte_fallback(size: int = 400) -> PreTrainedTokenizerFast:
    """BPE over marked spaces with a token for each byte, as Llama 2 and Mistral have it."""
    core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - 256, special_tokens=[END, "<unk>"], show_progress=False
    )
    core.train_from_iterator(corpus(), trainer)
    # Tokens for bytes are no special ones, so the trainer cannot be asked for them.
    state = json.loads(core.to_str())
    vocabulary = state["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    return wrapped(Tokenizer.from_str(json.dumps(state)), unk_token="<unk>")


@cache
def lowercasing(size: int = 400) -> PreTrainedTokenizerFast:
    """A tokenizer that changes what it encodes."""
    core = Tokenizer.from_str(byte_level(size).backend_tokenizer.to_str())
    core.normalizer = normalizers.Lowercase()
    return wrapped(core)


KINDS = {
    "byte-level": lambda: byte_level(400),
    "smaller": lambda: byte_level(300),
    "prefix-space": lambda: byte_level(350, prefix_space=True),
    "unigram": unigram,
    "byte-fallback": byte_fallback,
}


TEXTS = tuple(problem.text for problem in generate("stories", "calibration", 5))
