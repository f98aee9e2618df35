"""Reading of prompts as users give them: text, tokens or a chat, alone or in a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from stet.core.errors import OptionError
from stet.requests.chat import Rendered

Message = Mapping[str, Any]
"""A message of a chat: `role` and `content`, and further fields that the chat template reads."""

Prompt = str | Sequence[int] | Sequence[Message]
"""Text, tokens, or the messages of a chat."""

_ALLOWED = "a prompt is a text, a list of token ids, or a list of messages"


def prompts_of(given: Any) -> tuple[list[Any], bool]:
    """Tell one prompt from several, by the entries of a list.

    A flat list of token ids is one prompt, and so is a list of messages; any other list holds
    prompts, each of which may be any of the three.

    Args:
        given: the prompts as the user gave them.

    Returns:
        The prompts, unchecked, and whether it is a single prompt.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(given, (str, Rendered)):
        return [given], True
    whole = _entries(given)
    if whole is None:
        raise OptionError(_refusal(given))
    kinds = {_kind(item) for item in whole}
    if kinds in ({"token"}, {"message"}):
        return [whole], True
    if kinds == {"other"}:
        raise OptionError(f"This list holds {_describe(whole[0])}; {_ALLOWED}.")
    if "token" in kinds or "message" in kinds:
        odd = next(item for item in whole if _kind(item) != _kind(whole[0]))
        raise OptionError(
            f"This list holds {_describe(whole[0])} and also {_describe(odd)}; {_ALLOWED}, and "
            "several prompts go into a list of such."
        )
    return whole, False


def prompt_of(given: Any) -> str | list[int] | list[Message]:
    """Read a single prompt as text, tokens or messages; an empty one is refused later.

    Raises:
        OptionError: it is none of the three.
    """
    if isinstance(given, Rendered):
        return given
    if isinstance(given, str):
        return _text(given)
    found = _entries(given)
    if found is None:
        raise OptionError(_refusal(given))
    kinds = {_kind(item) for item in found}
    if kinds == {"message"}:
        check_messages(found)
        return found
    odd = [item for item in found if _kind(item) != "token"]
    if odd:
        raise OptionError(f"A prompt's list holds {_describe(odd[0])}; {_ALLOWED}.")
    return [int(token) for token in found]


def _text(given: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"A prompt holds half a character ({given[error.start]!r}), which is no text; decode "
            "it anew."
        ) from error
    return given


def check_messages(messages: Iterable[Any]) -> None:
    """Refuse a chat that no template could read.

    Raises:
        OptionError: naming the first invalid message.
    """
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise OptionError(
                f"Message {number} of a chat is {_describe(message)}; a message is a dictionary "
                'with "role" and "content".'
            )
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            raise OptionError(
                f'Message {number} of a chat has no role; give it one, such as "user".'
            )
        is_parts = isinstance(content, Sequence) and not isinstance(content, bytes)
        if not (is_parts or (content is None and "tool_calls" in message)):
            what = "no content" if content is None else f"{_describe(content)} for content"
            raise OptionError(f"Message {number} of a chat ({role}) has {what}; give it a text.")


def _entries(given: Any) -> list[Any] | None:
    """The entries of a list or an array; None for anything else."""
    if isinstance(given, (str, bytes, bytearray, Mapping, set, frozenset)):
        return None
    if hasattr(given, "ndim") and hasattr(given, "tolist"):
        return list(given.tolist()) if given.ndim == 1 else None
    if hasattr(given, "input_ids") or not isinstance(given, Iterable):
        return None
    return list(given)


def _kind(item: Any) -> str:
    if isinstance(item, Mapping):
        return "message"
    if isinstance(item, (bool, np.bool_)):
        return "other"
    if isinstance(item, Integral):
        return "token"
    if getattr(item, "ndim", None) == 0 and not isinstance(item, np.generic):
        return _kind(item.tolist())
    if isinstance(item, Iterator):
        return "prompt"  # to be read once, where it is one
    return "other" if not isinstance(item, str) and _entries(item) is None else "prompt"


def _refusal(given: Any) -> str:
    """A sentence on why something is no prompt, and what to give instead."""
    if hasattr(given, "input_ids") or (isinstance(given, Mapping) and "input_ids" in given):
        return "A tokenizer's output is no prompt; give a list of ids, such as its input_ids[0]."
    if isinstance(given, Mapping):
        return "A single message is no prompt; put the messages of a chat into a list."
    if isinstance(given, (bytes, bytearray)):
        return "A prompt in bytes has to be decoded first, for instance with .decode()."
    if getattr(given, "ndim", 1) != 1:
        return (
            f"An array of {given.ndim} dimensions is no prompt; give a list with the ids of each, "
            "without padding."
        )
    name = _describe(given)
    return f"{name[0].upper()}{name[1:]} is no prompt; {_ALLOWED}."


def _describe(item: Any) -> str:
    """A value as a message describes it."""
    if isinstance(item, Mapping):
        return "a message"
    if isinstance(item, str):
        return "a text"
    if item is None:
        return "nothing (None)"
    text = " ".join(repr(item).split())
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(item).__name__})"
