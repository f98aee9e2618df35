"""One model's tokens: how it reads a prompt, and what ends its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from stet.codec import Codec
from stet.errors import OptionError
from stet.models.model import LoadedModel
from stet.options import Prompt


class Rendered(list[int]):
    """A chat as the tokens of a prompt, for a pair whose tokenizers differ.

    The list itself is for the target.

    Attributes:
        draft: the same chat in the draft's tokens, by its own template where it has one.
    """

    def __init__(self, tokens: list[int], draft: list[int]) -> None:
        super().__init__(tokens)
        self.draft = draft


class Vocabulary:
    """What a model reads and writes.

    Args:
        model: whose tokenizer this is about.

    Attributes:
        tokenizer: the model's.
        size: V, the width of its logits.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.tokenizer: Any = model.tokenizer
        self.size = model.vocab_size
        self._model = model

    @cached_property
    def codec(self) -> Codec:
        """Between text and its tokens."""
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
        """The one that stands for the end of an answer that another model wrote."""
        own: int | None = self.tokenizer.eos_token_id
        return own if own in self.ends else min(self.ends, default=None)

    def read(self, prompt: Prompt) -> list[int]:
        """A prompt as tokens.

        Raises:
            OptionError: an empty prompt, or a token that the model does not have.
        """
        if isinstance(prompt, str):
            tokens: list[int] = list(self.tokenizer(prompt)["input_ids"])
        else:
            tokens = list(prompt)
            outside = [t for t in tokens if not 0 <= t < self.size]
            if outside:
                raise OptionError(f"Token {outside[0]} is not in the vocabulary.")
        if not tokens:
            raise OptionError("A prompt is empty; give at least one token.")
        return tokens

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A chat as the tokens of a prompt, by the tokenizer's own template.

        Raises:
            OptionError: the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise OptionError("This tokenizer has no chat template; give the prompt as text.")
        rendered = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        tokens: list[int] = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return tokens

    def spoken(self, prompt: Prompt) -> str:
        """A prompt as the text that a server is sent, which adds its own beginning of a text."""
        if isinstance(prompt, str):
            return prompt
        text: str = self.tokenizer.decode(self.read(prompt), skip_special_tokens=False)
        return text.removeprefix(self.tokenizer.bos_token or "")

    def plain(self, tokens: Sequence[int]) -> str:
        """A prompt's tokens as text, without special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
