"""Chats as the tokens of a prompt, by a tokenizer's own chat template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stet.core.errors import OptionError

_TAKEN = frozenset(
    {
        "conversation",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""Arguments of transformers' `apply_chat_template` that are not the template's."""

_ALWAYS = frozenset({"add_generation_prompt", "continue_final_message", "chat_template"})
"""Arguments that need not stand in a template to have an effect."""


class Rendered(list[int]):
    """A chat as the tokens of a prompt.

    The list itself is for the target.

    Attributes:
        draft: the same chat in the draft's tokens, by its own template where it has one; None where
            they are the same.
        record: which template made it, for the trace.
    """

    def __init__(self, tokens: list[int], draft: list[int] | None, record: dict[str, Any]) -> None:
        super().__init__(tokens)
        self.draft = draft
        self.record = record


class Renders(Protocol):
    """What makes prompts of chats: a pair."""

    def render(self, messages: Sequence[Mapping[str, Any]], **arguments: Any) -> Rendered:
        """A chat as the tokens of a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Chat:
    """How a text becomes a chat with the model: as the user's message.

    Attributes:
        system: the system prompt before it; None leaves it to the template.
        arguments: of the chat template, such as `enable_thinking`.
    """

    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat that asks `text`."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, {"role": "user", "content": text}]

    def prompt(self, pair: Renders, text: str) -> Rendered:
        """The tokens that ask `text`.

        Raises:
            OptionError: the tokenizer has no chat template, or it refuses the chat.
        """
        return pair.render(self.messages(text), **self.arguments)


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer knows how its model is to be asked."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> tuple[list[int], dict[str, Any]]:
    """A chat as tokens, with a beginning of the text only where the template writes one.

    Args:
        tokenizer: whose template it is.
        messages: the chat.
        arguments: of the template, and those of transformers' `apply_chat_template` that choose
            what it writes (`tools`, `documents`, `add_generation_prompt`, `chat_template`, ...).

    Returns:
        The tokens, and what the trace says of the template: its SHA-256 and the arguments.

    Raises:
        OptionError: there is no template, it refuses the chat, or an argument means nothing to it.
    """
    template = _template(tokenizer, arguments)
    _check(template, arguments)
    settings = {"add_generation_prompt": not arguments.get("continue_final_message"), **arguments}
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, **settings
        )
    except Exception as error:  # a template is a program of somebody else's
        raise OptionError(f"The chat template refuses this chat: {_reason(error)}.") from error
    _check_system(messages, text)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    record = {
        "sha256": hashlib.sha256(template.encode()).hexdigest(),
        # As JSON has them; what it has not, such as a function among the tools, by its name.
        "arguments": json.loads(json.dumps(dict(arguments), default=str)),
    }
    return tokens, record


def read_by(tokenizer: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of arguments for another tokenizer's template, those that mean something to this one's own.

    Raises:
        OptionError: there is no template.
    """
    own = {name: value for name, value in arguments.items() if name != "chat_template"}
    template = _template(tokenizer, own)
    return {name: value for name, value in own.items() if _is_read(name, template)}


def _template(tokenizer: Any, arguments: Mapping[str, Any]) -> str:
    chosen = arguments.get("chat_template")
    if not (chosen or has_template(tokenizer)):
        raise OptionError("This tokenizer has no chat template; give the prompt as text.")
    try:
        template: str = tokenizer.get_chat_template(chosen, arguments.get("tools"))
    except ValueError as error:
        raise OptionError(f"The chat template cannot be chosen: {_reason(error)}.") from error
    return template


def _check(template: str, arguments: Mapping[str, Any]) -> None:
    for name in arguments:
        if name in _TAKEN:
            raise OptionError(f"{name} is no argument of a chat template; leave it out.")
        if not _is_read(name, template):
            raise OptionError(
                f"The chat template does not look at {name!r}, so it would change nothing; leave "
                "it out."
            )


def _is_read(name: str, template: str) -> bool:
    """Whether an argument changes what a template writes."""
    return name in _ALWAYS or re.search(rf"\b{re.escape(name)}\b", template) is not None


def _check_system(messages: Sequence[Mapping[str, Any]], text: str) -> None:
    """Refuse to lose a system prompt: some templates pass over it without a word."""
    for message in messages:
        content = message.get("content")
        if (
            message.get("role") == "system"
            and isinstance(content, str)
            and content.strip() not in text
        ):
            raise OptionError(
                "The chat template leaves the system prompt out; put it at the beginning of the "
                "user's message."
            )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if "system" in text.lower():
        text += "; put the system prompt at the beginning of the user's message"
    return text
