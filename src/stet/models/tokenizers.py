"""Comparison of two models' tokenizers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stet.core.errors import TokenizerMismatch
from stet.core.model import LoadedModel
from stet.text.codec import Codec

# Texts whose encodings differ if normalisation, splitting, digits or white space are treated
# differently, although the vocabulary is the same.
_PROBES = (
    "Hello, world!  Two spaces,\ttab\n\nand a blank line.",
    "x = 12345 + 6,789.01; y -= 3/4",
    "naïve café — “quotes” … 中文 русский العربية 🙂",
    " leading and trailing ",
    "DON'T stop; it's camelCase_and_snake",
)

# Texts that every tokenizer must reproduce exactly if steps are to be exchanged as text.
_PLAIN = ("The answer is 42.\n", ' a  b\n\n1 + (2 * 3) = 7; so "it" ends?')

ADVICE = "choose a draft with the target's tokenizer, or a step policy, which works over text."
"""What to do where two tokenizers differ."""


def check_same_tokenizer(target: Any, draft: Any) -> None:
    """Refuse a pair whose token ids do not mean the same text.

    Padding is ignored: models of one family pad their vocabulary to different sizes.

    Args:
        target: a `LoadedModel`, or a tokenizer.
        draft: a `LoadedModel`, or a tokenizer.

    Raises:
        TokenizerMismatch: the tokenizers differ; the message names the first token that does, with
            its id and both strings.
    """
    found = difference(target, draft)
    if found is not None:
        raise TokenizerMismatch(f"{found}; {ADVICE}")


def check_text_exchange(target: Any, draft: Any, found: str) -> None:
    """Refuse a pair that cannot even exchange text, since a tokenizer changes what it encodes.

    Args:
        target: a `LoadedModel`, or a tokenizer.
        draft: a `LoadedModel`, or a tokenizer.
        found: how the two differ.

    Raises:
        TokenizerMismatch: a tokenizer changes a text; the message has both versions.
    """
    for model, fallback in ((target, "the target"), (draft, "the draft")):
        tokenizer, name = _tokenizer_and_name(model, fallback)
        codec = Codec(tokenizer)
        for text in _PLAIN:
            changed = codec.changed(text)
            if changed is not None:
                raise TokenizerMismatch(
                    f"{found}; and steps cannot be exchanged as text, since {text!r} comes back "
                    f"as {changed!r} from the tokenizer of {name}: choose a draft with the "
                    "target's tokenizer."
                )


def difference(target: Any, draft: Any) -> str | None:
    """How two tokenizers differ where it matters, naming the first token; None if they do not.

    Prompts and answers are encoded and decoded by the target's tokenizer, so it does not matter
    which tokens are special for the draft's. The target may have added tokens that the draft's
    tokenizer lacks, if the draft has rows for them: it reads them, if not well. The draft may have
    added tokens beyond all of the target's: these are cut off.

    Args:
        target: a `LoadedModel`, or a tokenizer.
        draft: a `LoadedModel`, or a tokenizer.
    """
    ours, our_name = _tokenizer_and_name(target, "the target")
    theirs, their_name = _tokenizer_and_name(draft, "the draft")
    left, right = _by_id(ours), _by_id(theirs)
    if left != right:
        extra, more = _added(ours), _added(theirs)
        end = token_count(ours)
        rows = draft.rows if isinstance(draft, LoadedModel) else 0
        for index in sorted(left.keys() | right.keys()):
            harmless = left.get(index) == right.get(index)
            if index not in right:
                harmless = index in extra and index < rows
            elif index not in left:
                harmless = index in more and index >= end
            if not harmless:
                return (
                    f"Token {index} is {_show(left.get(index))} for {our_name} and "
                    f"{_show(right.get(index))} for {their_name}"
                )
    if isinstance(target, LoadedModel) and isinstance(draft, LoadedModel):
        row = draft.rows
        if row < target.vocab_size:
            return (
                f"Token {row} ({_show(left.get(row))}) is one that {our_name} can write and "
                f"{their_name} has no row for"
            )
    for text in _PROBES:
        a, b = _encode(ours, text), _encode(theirs, text)
        if a == b:
            continue
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        at = min(len(a), len(b)) if at is None else at
        x, y = (ids[at] if at < len(ids) else None for ids in (a, b))
        return (
            f"The text {text!r} is split differently: token {at} is {x} "
            f"({_show(left.get(x) if x is not None else None)}) for {our_name} and {y} "
            f"({_show(left.get(y) if y is not None else None)}) for {their_name}"
        )
    return None


def tokenizer_hash(tokenizer: Any) -> str:
    """A fingerprint of a tokenizer, equal for copies of it.

    Returns:
        64 hexadecimal digits (SHA-256) over the vocabulary, the special tokens, and the rules of
        the tokenizer; settings for padding and truncation are left out.
    """
    rules: dict[str, Any] = {}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
    content = {
        "vocabulary": sorted(_by_id(tokenizer).items()),
        "special": sorted(_special(tokenizer)),
        "rules": rules,
        "probes": [_encode(tokenizer, text) for text in _PROBES],
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _tokenizer_and_name(model: Any, fallback: str) -> tuple[Any, str]:
    if isinstance(model, LoadedModel):
        return model.tokenizer, model.name
    return model, getattr(model, "name_or_path", "") or fallback


def _by_id(tokenizer: Any) -> dict[int, str]:
    """All tokens by id, added ones included.

    GGUF files name the rows of a padded vocabulary that no token has: "[PAD151665]" for that row.
    They are no tokens.
    """
    vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
    return {i: token for token, i in vocabulary.items() if token != f"[PAD{i}]"}


def _added(tokenizer: Any) -> set[int]:
    """Ids of the tokens that were added to a vocabulary; they do not change how text is split."""
    return set(getattr(tokenizer, "added_tokens_decoder", {}))


def token_count(tokenizer: Any, default: int = 0) -> int:
    """One more than the highest id of a tokenizer; `default` where it has no vocabulary."""
    return max(_by_id(tokenizer), default=default - 1) + 1


def _special(tokenizer: Any) -> set[int]:
    """Ids of the added tokens that decoding may skip; their roles do not matter."""
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return {index for index, token in added.items() if getattr(token, "special", False)}


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _show(token: str | None) -> str:
    return "missing" if token is None else repr(token)
