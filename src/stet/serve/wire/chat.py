"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from stet.core.errors import NAME, quoted
from stet.requests.options import MOST_LOGPROBS
from stet.serve.wire.fields import Body, refused


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat.

    Attributes:
        role: who says it; `developer` is another word for `system`.
        content: what is said.
        name: who it is, for templates that have names.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: Annotated[str, Field(max_length=200)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        taken = dict(given)
        for name in ("tool_calls", "function_call", "refusal", "audio", "annotations"):
            if taken.get(name) in (None, []):
                taken.pop(name, None)
            else:
                raise _refused(f"messages with {name} are not supported by this server.")
        if isinstance(parts := taken.get("content"), list) and len(parts) > _MOST_PARTS:
            raise _refused(f"a message has {len(parts)} parts; it may have {_MOST_PARTS}.")
        role = taken.get("role")
        if role in ("tool", "function"):
            raise _refused(f"messages of the role {role!r} are not supported by this server.")
        for part in taken["content"] if isinstance(taken.get("content"), list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                shown = quoted(kind, NAME)
                raise _refused(f"content of the type {shown!r} is not supported; send texts.")
        return taken

    def plain(self) -> dict[str, str]:
        """The message as a chat template reads it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": text} | ({"name": self.name} if self.name else {})


_MOST_PARTS = 1000


def _refused(message: str) -> PydanticCustomError:
    return refused("messages", message)


Argument = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
"""The name of an argument of a chat template."""


class ChatBody(Body):
    """A chat to answer.

    Attributes:
        messages: the chat so far.
        max_completion_tokens: another name of `max_tokens`.
        logprobs: say the log-probability of each token of the answer.
        top_logprobs: with `logprobs`, those of so many most probable tokens.
        chat_template_kwargs: arguments of the chat template, such as `enable_thinking`.
        add_generation_prompt: let the template open the answer.
        continue_final_message: go on with the last message instead of answering it.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    chat_template_kwargs: dict[Argument, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def template_arguments(self) -> dict[str, Any]:
        """Arguments of the chat template, of all fields that give some."""
        found = dict(self.chat_template_kwargs or {})
        if self.continue_final_message:
            found["continue_final_message"] = True
        if self.add_generation_prompt is not None and not self.continue_final_message:
            found["add_generation_prompt"] = self.add_generation_prompt
        return found
