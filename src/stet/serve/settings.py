"""The settings of a server, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stet.core.errors import OptionError
from stet.policies import Policy

Level = Literal["none", "summary", "detailed", "trace"]
"""How much a response says of its speculation."""

_LONGEST = 7 * 86_400.0
"""Seconds of any bound of time."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What a server offers, and where its bounds are.

    Attributes:
        model: what clients call the model; None: the last part of the target's name.
        default: the policy of requests that name none, by the name under which it is offered.
        named: further policies by the names under which they are offered, such as one with an
            arbiter of the operator's own. They need no permission of their own.
        lossless: whether requests may choose every lossless policy.
        allow: names of further policies that they may choose; "all" stands for every one.
        level: how much responses say of their speculation where a request does not ask.
        api_key: what requests must carry as a bearer token; None: nothing.
        origins: web pages that may use the server, beside its own, such as "https://example.org".
        hosts: names by which it may be addressed; None: any, but only those of the loopback where
            it listens there.
        max_queue: sequences that may wait beside those that are decoded; more are refused (429).
        max_body: bytes of a request's body.
        max_choices: sequences of one request: prompts times `n`.
        max_prompt: tokens of a prompt; None: what the pair can hold.
        max_output: tokens of an answer; None: what the pair can hold.
        timeout: seconds after which a request ends with what it has, waiting included.
        stall: seconds after which a client that does not read its stream is dropped.
        grace: seconds that requests have left when the server is told to stop.
        log_texts: write prompts and answers to the log.
    """

    model: str | None = None
    default: str = "exact"
    named: Mapping[str, str | Policy] = field(default_factory=dict[str, "str | Policy"])
    lossless: bool = True
    allow: tuple[str, ...] = ()
    level: Level = "none"
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    max_queue: int = 256
    max_body: int = 4 * 2**20
    max_choices: int = 128
    max_prompt: int | None = None
    max_output: int | None = None
    timeout: float = 600.0
    stall: float = 60.0
    grace: float = 30.0
    log_texts: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the setting.
        """
        counts = ("max_queue", "max_body", "max_choices", "max_prompt", "max_output")
        for name in counts:
            value = getattr(self, name)
            least = 0 if name == "max_queue" else 1
            if value is not None and value < least:
                raise OptionError(f"{name} is {value}; it must be at least {least}.")
        for name in ("timeout", "stall", "grace"):
            if not 0 <= getattr(self, name) <= _LONGEST:
                raise OptionError(
                    f"{name} is {getattr(self, name)}; it must be a number of seconds from 0 to "
                    f"{_LONGEST:g}."
                )
        if self.api_key is not None and not self.api_key.strip():
            raise OptionError("The API key is empty; give one, or none at all.")
        for origin in self.origins:
            if origin == "*" or "://" not in origin or origin.endswith("/"):
                raise OptionError(
                    f"{origin!r} is no origin; give scheme and host, such as https://example.org."
                )
