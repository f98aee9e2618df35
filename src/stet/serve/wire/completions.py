"""The body of `POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from stet.requests.options import MOST_LOGPROBS
from stet.serve.wire.fields import Body, refused
from stet.serve.wire.problems import EXPECTED

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
Prompts = Text | Annotated[list[Text], Field(min_length=1)] | Tokens | list[Tokens]
_SCHEMA = TypeAdapter(Prompts).json_schema()

MOST = 8_000_000
"""Tokens or characters of all prompts of a request, whatever the pair can hold."""


def _read(given: Any) -> Any:
    """Read the prompts; the first thing that is wrong is one error, however many there are."""
    if isinstance(given, str) and given:
        return given
    if not isinstance(given, list) or not given:
        raise _wrong()
    lists = [given] if isinstance(given[0], int) else given
    if sum(len(part) for part in lists if isinstance(part, (list, str))) > MOST:
        raise refused("prompt", f"prompt is longer than {MOST} tokens or characters; send less.")
    kind = str if isinstance(lists[0], str) else list
    for part in lists:
        if type(part) is not kind or not part:
            raise _wrong()
        if kind is list and not all(type(t) is int and 0 <= t < 2**31 for t in part):
            raise _wrong()
    return given


def _wrong() -> PydanticCustomError:
    return refused("prompt", f"prompt must be {EXPECTED['prompt']}.")


class CompletionBody(Body):
    """A text to go on with: one or several, each as text or as token ids.

    Attributes:
        prompt: the texts.
        echo: repeat the prompt before the answer; with `logprobs`, with its log-probabilities.
        logprobs: the log-probabilities of so many most probable tokens, and of each token.
    """

    prompt: Annotated[Prompts, PlainValidator(_read), WithJsonSchema(_SCHEMA)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [[int(part) for part in self.prompt if isinstance(part, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]
