"""One model's vocabulary: how prompts are encoded, and which tokens end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from stet.core.errors import OptionError
from stet.core.model import LoadedModel
from stet.text.codec import Codec


class Vocabulary:
    """The tokens of one model.

    Args:
        model: the model.

    Attributes:
        tokenizer: the model's tokenizer.
        size: V, the width of its logits.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.tokenizer: Any = model.tokenizer
        self.size = model.vocab_size
        self._model = model

    @cached_property
    def codec(self) -> Codec:
        """The codec between text and this model's tokens."""
        return Codec(self.tokenizer)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends: set[int] = set()
        config = getattr(self._model.model, "generation_config", None)
        for found in (getattr(config, "eos_token_id", None), self.tokenizer.eos_token_id):
            if found is not None:
                ends |= {found} if isinstance(found, int) else set(found)
        return frozenset(ends)

    @property
    def end(self) -> int | None:
        """The token for the end of an answer that another model wrote."""
        own: int | None = self.tokenizer.eos_token_id
        return own if own in self.ends else min(self.ends, default=None)

    @cached_property
    def special(self) -> dict[int, str]:
        """Tokens that are no part of a decoded text, with their names."""
        added: dict[int, Any] = getattr(self.tokenizer, "added_tokens_decoder", {})
        found = {token: str(entry) for token, entry in added.items() if entry.special}
        ids: Sequence[int] = getattr(self.tokenizer, "all_special_ids", ())
        names: Sequence[str] = getattr(self.tokenizer, "all_special_tokens", ())
        found |= dict(zip(ids, names, strict=True))
        return {token: name for token, name in found.items() if name}

    def read(self, prompt: str | Sequence[int]) -> list[int]:
        """Encode a prompt.

        A text that begins with the beginning-of-sequence token, as rendered chats do, gets no
        second one.

        Raises:
            OptionError: an empty prompt, or a token that the model does not have.
        """
        if isinstance(prompt, str):
            tokens: list[int] = list(self.tokenizer(prompt)["input_ids"])
            first = self.tokenizer.bos_token
            if first and prompt.startswith(first) and tokens[:2] == 2 * tokens[:1]:
                twice = self.tokenizer.convert_tokens_to_ids(first) == tokens[0]
                own = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
                tokens = list(own) if twice and list(own) == tokens[1:] else tokens
        else:
            tokens = list(prompt)
        # Also for a text: some tokenizers have special tokens that the model has no row for.
        outside = [t for t in tokens if not 0 <= t < self.size]
        if outside:
            # Tokenizers refuse to look up larger ids.
            known = 0 <= outside[0] < 2**31
            name = self.tokenizer.convert_ids_to_tokens(outside[0]) if known else None
            shown = "" if name is None else f" ({name})"
            raise OptionError(
                f"Token {outside[0]}{shown} is not in the vocabulary, which has {self.size} tokens."
            )
        if not tokens:
            raise OptionError("A prompt is empty; give at least one token.")
        return tokens

    def spoken(self, prompt: str | Sequence[int]) -> str:
        """A prompt as text for a server, which adds its own beginning-of-sequence token."""
        if isinstance(prompt, str):
            text = prompt
        else:
            text = self.tokenizer.decode(self.read(prompt), skip_special_tokens=False)
        return text.removeprefix(self.tokenizer.bos_token or "")

    def plain(self, tokens: Sequence[int]) -> str:
        """Decode a prompt's tokens, without special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
