"""Fields that both endpoints share, and those that are refused by name.

Nothing that a client asks for is silently ignored. Clients do send the defaults of fields that they
do not use, so a value that asks for nothing (`null`, `[]`, `"none"`, `{"type": "text"}`) is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from stet.core.errors import NAME, quoted
from stet.requests.options import MOST_LOGPROBS
from stet.serve.settings import Level

UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (),
    "audio": (),
    "best_of": (1,),
    "bad_words": ([],),
    "chat_template": (),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "modalities": (["text"], []),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "spaces_between_special_tokens": (True,),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields that ask for what this server does not have, each with the values that ask for nothing."""

WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that never change an answer; they are taken and not used."""


class Speculation(BaseModel):
    """How the answer is to be speculated. Parameters of the policy stand beside its name.

    Attributes:
        policy: the name of a policy that the server offers; null: the server's default.
        metrics: how much the response says of it; null: as the server is set.
        draft_length: drafted tokens of a block; null: as costs and acceptance suggest.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    policy: Annotated[str, Field(max_length=200)] | None = None
    metrics: Level | None = None
    draft_length: Annotated[int, Field(ge=1)] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the policy."""
        return dict(self.model_extra or {})


class StreamOptions(BaseModel):
    """What a stream has beside its pieces.

    Attributes:
        include_usage: a last piece says how many tokens were read and written.
        continuous_usage_stats: every piece says so.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: bool | None = None


Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
StopStrings = StopString | Annotated[list[StopString], Field(max_length=64)]
StopToken = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Named = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class Body(BaseModel):
    """The fields that `/v1/completions` and `/v1/chat/completions` share.

    `temperature` is 1 where it is not given, as in OpenAI's API.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=500)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=1000)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[Named, Bias], Field(max_length=1024)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopStrings | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1024)] | None = (
        None
    )
    ignore_eos: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    return_token_ids: bool | None = None
    timings_per_token: bool | None = None
    speculation: Speculation | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        taken = dict(given)
        for name, most in _MOST.items():
            # Before the entries are looked at: each wrong one of a million would be an error.
            if isinstance(value := given.get(name), (list, dict)) and len(value) > most:
                raise refused(name, f"{name} has {len(value)} entries; it may have {most}.")
        for name, value in given.items():
            if name in WITHOUT_EFFECT:
                del taken[name]
            elif name in cls.model_fields:
                if name in _CHECKED and value is None:
                    del taken[name]
            elif name in UNSUPPORTED:
                if value is not None and not _asks_for_nothing(name, value, given):
                    raise refused(name, f"{name} is not supported by this server; leave it out.")
                del taken[name]
            else:
                raise refused(name, f"There is no field {quoted(name, NAME)}; leave it out.")
        return taken


_MOST = {
    "chat_template_kwargs": 64,
    "logit_bias": 1024,
    "messages": 10_000,
    "speculation": 64,
    "stop": 64,
    "stop_token_ids": 1024,
    "stream_options": 16,
}
"""The most entries of fields that have some."""

_CHECKED = frozenset({"model", "prompt", "messages"})


def _asks_for_nothing(name: str, value: Any, given: Mapping[str, Any]) -> bool:
    if name == "best_of":  # as many as are returned is no choice
        return type(value) is int and value == (given.get("n") or 1)
    return any(type(value) is type(idle) and value == idle for idle in UNSUPPORTED[name])


def refused(name: Any, message: str) -> PydanticCustomError:
    """The error for a field that a request cannot have so."""
    # A message in braces would be formatted.
    return PydanticCustomError("refused", "{message}", {"message": message, "param": str(name)})
