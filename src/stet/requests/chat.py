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
"""Arguments that have an effect without being named in a template."""


class Rendered(list[int]):
    """A chat as the tokens of a prompt. The list itself holds the target's tokens.

    Attributes:
        draft: the chat in the draft's tokens, by its own template where it has one; None where both
            models have the same tokens.
        record: the template and its arguments, for the trace.
    """

    def __init__(self, tokens: list[int], draft: list[int] | None, record: dict[str, Any]) -> None:
        super().__init__(tokens)
        self.draft = draft
        self.record = record


class Renders(Protocol):
    """An object that renders chats as prompts, such as a pair."""

    def render(self, messages: Sequence[Mapping[str, Any]], **arguments: Any) -> Rendered:
        """Render a chat as the tokens of a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Chat:
    """How a text becomes a chat with the model: as the user's message.

    Attributes:
        system: the system prompt before it; None leaves it to the template.
        arguments: arguments of the chat template, such as `enable_thinking`.
    """

    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def messages(self, text: str) -> list[dict[str, str]]:
        """The messages of the chat with `text` as the user's message."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, {"role": "user", "content": text}]

    def prompt(self, pair: Renders, text: str) -> Rendered:
        """Render the chat with `text` as the user's message.

        Raises:
            OptionError: the tokenizer has no chat template, or the template refuses the chat.
        """
        return pair.render(self.messages(text), **self.arguments)


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> tuple[list[int], dict[str, Any]]:
    """Render a chat as tokens, with a beginning-of-sequence token only if the template writes one.

    Args:
        tokenizer: the tokenizer that has the template.
        messages: the chat.
        arguments: arguments of the template, and those of transformers' `apply_chat_template` that
            affect the text (`tools`, `documents`, `add_generation_prompt`, `chat_template`, ...).

    Returns:
        The tokens, and the trace's record of the template: its SHA-256 and the arguments.

    Raises:
        OptionError: there is no template, it refuses the chat, or it does not use an argument.
    """
    template = _template(tokenizer, arguments)
    _check(template, arguments)
    settings = {"add_generation_prompt": not arguments.get("continue_final_message"), **arguments}
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, **settings
        )
    except Exception as error:  # a template is a program that may raise anything
        raise OptionError(f"The chat template refuses this chat: {_reason(error)}.") from error
    _check_system(messages, text)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    record = {
        "sha256": hashlib.sha256(template.encode()).hexdigest(),
        # As JSON; values that JSON does not have, such as a function among the tools, as text.
        "arguments": json.loads(json.dumps(dict(arguments), default=str)),
    }
    return tokens, record


def read_by(tokenizer: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of another tokenizer's template that this tokenizer's own template uses.

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
                f"The chat template does not use {name!r}, so it would change nothing; leave it "
                "out."
            )


def _is_read(name: str, template: str) -> bool:
    """Whether an argument changes the text of a template."""
    return name in _ALWAYS or re.search(rf"\b{re.escape(name)}\b", template) is not None


def _check_system(messages: Sequence[Mapping[str, Any]], text: str) -> None:
    """Refuse a template that drops the system prompt, as some do silently."""
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
