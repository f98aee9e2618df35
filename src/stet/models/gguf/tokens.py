"""The tokenizer of a GGUF file.

The vocabulary, the merges and the special tokens are in the file; the rules that split a text
before it are only named there. transformers builds the tokenizer, and what it does not know of the
rules is added here. A rule that neither knows is refused: any other one would split texts in a way
that the model was not trained on, and nothing would show it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import transformers
from tokenizers import decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stet.core.errors import CompatibilityError, LoadError, first_line
from stet.models.gguf.header import Header

_KNOWN = "gpt2", "llama"
_PLAIN = frozenset({"gpt-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2"})
"""Rules that are GPT-2's own, which transformers uses where it knows no other."""

_SINGLE_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
"""Rules that split digits from each other, and then as GPT-2's do."""

_COMPOSED = frozenset({"qwen2"})
"""Rules of tokenizers that compose a letter and its accents first; files do not say so."""

_WHOLE_WORDS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "tekken"}
)
"""Rules by which a word that is a token is that token, whatever the merges make of it. Texts begin
with the beginning of a text, unless the file says something else."""

_ENDS = frozenset(
    {"</s>", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>"}
    | {"<EOT>", "[EOT]", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|im_end|>", "<end_of_turn>"}
    | {"<|return|>", "<|call|>"}
)
"""Special tokens that end an answer, whether or not the file says so. Files name one end, and chat
models write another one than models of plain text; llama.cpp, too, goes by the spelling."""

_CONVERTER = "transformers.integrations.gguf.gguf_tokenizer_mapping"
_PARTS = "tokens", "scores", "token_type", "merges"
_SPECIAL = 3, 4
"""Types of the tokens that no text is split across: control, and defined by the user."""


def tokenizer_of(header: Header) -> Any:
    """The tokenizer in a file, with its chat template.

    Raises:
        LoadError: it cannot be built of what the file holds.
        CompatibilityError: its kind, or the rule by which it splits texts, is not known.
    """
    settings = {
        key.removeprefix("tokenizer.ggml."): value for key, value in header.settings.items()
    }
    kind, rule = settings.get("model"), settings.get("pre")
    if kind not in _KNOWN:
        raise CompatibilityError(
            f"{header.name} has a tokenizer of the kind {str(kind)[:40]!r}, and of GGUF files Stet "
            f"reads {' and '.join(_KNOWN)}; give the folder of the transformers model."
        )
    converter = _converter(header.name)
    by_bytes = kind == "gpt2"
    known = _PLAIN | _SINGLE_DIGITS | converter.GGUF_PRE_TOKENIZER_SPLITS.keys()
    if by_bytes and rule not in known:
        raise CompatibilityError(
            f"{header.name} names the rule {str(rule)[:40]!r} for splitting texts, which Stet does "
            "not know; give the folder of the transformers model that it was made from."
        )
    tokens = settings.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise LoadError(f"{header.name} has no tokenizer's vocabulary; get the file again.")
    given: dict[str, Any] = {
        "tokenizer_type": kind,
        "pre_tokenizer_type": rule,
        **{key: settings[key] for key in _PARTS if key in settings},
    }
    begins = settings.get("add_bos_token", not by_bytes or rule in _WHOLE_WORDS)
    template = header.settings.get("tokenizer.chat_template")
    try:
        backend, _ = converter.convert_gguf_tokenizer(header.settings["general.architecture"], given)
        if rule in _COMPOSED and by_bytes:
            backend.normalizer = normalizers.NFC()
        if rule in _SINGLE_DIGITS and by_bytes:
            digits = pre_tokenizers.Digits(individual_digits=True)
            rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
        if rule in _WHOLE_WORDS and by_bytes:
            backend.model.ignore_merges = True
        if settings.get("add_space_prefix") is False and _adds_a_space(backend):
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
            spaces = decoders.Replace("▁", " ")
            backend.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            chat_template=template if isinstance(template, str) else None,
            add_bos_token=bool(begins),
            add_eos_token=bool(settings.get("add_eos_token", False)),
            **{
                f"{role}_token": _token(settings, f"{name}_token_id")
                for role, name in _ROLES.items()
            },
        )
    except Exception as error:  # tokenizers raises plain exceptions
        raise LoadError(
            f"The tokenizer of {header.name} could not be built ({first_line(error)}); get the "
            "file again."
        ) from error


def _converter(name: str) -> Any:
    """The part of transformers that builds tokenizers from GGUF files.

    Imported where it is needed: versions before 5.17 lack it, and run everything else.
    """
    try:
        return import_module(_CONVERTER)
    except ImportError as error:
        raise CompatibilityError(
            f"{name} is a GGUF file, whose tokenizer needs transformers 5.17 or newer (this is "
            f"{transformers.__version__}); update it, or give the folder of the transformers model."
        ) from error


def _adds_a_space(backend: Any) -> bool:
    """Whether a tokenizer puts a space before each text, as sentencepiece's usually do."""
    rule = backend.pre_tokenizer
    return isinstance(rule, pre_tokenizers.Metaspace) and rule.prepend_scheme != "never"


_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _token(settings: dict[str, Any], key: str) -> str | None:
    """The token that a setting names by its id."""
    tokens, found = settings["tokens"], settings.get(key)
    if isinstance(found, int) and 0 <= found < len(tokens):
        return str(tokens[found])
    return None


def ends_of(header: Header) -> list[int]:
    """Ids of the tokens that end an answer, the one that the file calls the end first."""
    tokens = header.settings.get("tokenizer.ggml.tokens", [])
    kinds = header.settings.get("tokenizer.ggml.token_type", [])
    named = (header.settings.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom"))
    found = [end for end in named if isinstance(end, int) and 0 <= end < len(tokens)]
    spelt = [
        index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in _SPECIAL and token in _ENDS
    ]
    return list(dict.fromkeys([*found, *spelt]))
