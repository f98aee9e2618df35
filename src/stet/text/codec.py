"""Conversion between a text and the tokens of one model, without a change to either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

_CONTEXT = 32
"""Tokens before a position that decide how the following ones decode; all where these do not."""

_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""The character to which the bytes of a part of a character decode."""

_ANCHORS = ("\n", "a", ".", "a ")
"""Texts to put before a text to encode, for tokenizers that treat the beginning differently."""


class Codec:
    """Decodes and encodes the continuation of a list of tokens.

    The list only grows: its tokens are never encoded again. So the tokens of a following text must
    decode, behind those of the list, to exactly that text. For tokenizers that put a space before a
    text they encode, or strip one from a text they decode, the text is encoded behind another one;
    where no tokens give exactly the text, there is no result.

    Args:
        tokenizer: a tokenizer of transformers. It is copied, as encoding changes its settings.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = deepcopy(tokenizer)

    def text_after(self, tokens: Sequence[int], start: int) -> str | None:
        """The text that the tokens from `start` on add to the text of those before.

        Special tokens decode to nothing.

        Returns:
            The text; None where the tokens end inside a character, or change how the tokens before
            them decode.
        """
        context, known = self._context(tokens[:start])
        whole = self.decode([*context, *tokens[start:]])
        if not whole.startswith(known):
            return None
        added = whole[len(known) :]
        return None if added.endswith(_UNREADABLE) else added

    def tokens_after(self, tokens: Sequence[int], text: str) -> list[int] | None:
        """Tokens that add exactly `text` to the text of `tokens`.

        The name of a special token in the text stays text.

        Returns:
            The tokens; None where this tokenizer has none: for a character that it does not know,
            or changes.
        """
        if not text:
            return []
        context, known = self._context(tokens)
        for found in self._attempts(text):
            if self.decode([*context, *found]) == known + text:
                return found
        if len(text) == 1:
            return None
        # An entry of the vocabulary may be no text, such as the name of a special token; in two
        # halves that name is only letters.
        half = len(text) // 2
        first = self.tokens_after(tokens, text[:half])
        if first is None:
            return None
        second = self.tokens_after([*tokens, *first], text[half:])
        return None if second is None else first + second

    def changed(self, text: str) -> str | None:
        """The text after encoding and decoding; None if it does not change."""
        if self.tokens_after(self.encode("a"), text) is not None:
            return None
        return self.decode(self.encode(text))

    def _attempts(self, text: str) -> Iterator[list[int]]:
        yield self.encode(text)
        for anchor in _ANCHORS:
            head, found = self.encode(anchor), self.encode(anchor + text)
            if found[: len(head)] == head:
                yield found[len(head) :]
        if text.startswith(" "):
            yield self.encode(text[1:])

    def _context(self, tokens: Sequence[int]) -> tuple[list[int], str]:
        """The last of the tokens, and their text."""
        context = list(tokens[-_CONTEXT:])
        known = self.decode(context)
        # The bytes of a character that began earlier would make all of it unreadable.
        if len(context) < len(tokens) and (not known or _UNREADABLE in known):
            context = list(tokens)
            known = self.decode(context)
        return context, known

    def encode(self, text: str) -> list[int]:
        """Tokens of a text by itself, without special ones."""
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(found["input_ids"])

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens by themselves; special ones decode to nothing."""
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
