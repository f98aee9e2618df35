"""Which policy decides about a request: the operator's settings, and what the request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stet.core.errors import OptionError, quoted
from stet.core.needs import Need
from stet.core.parsing import first_problem, value_of
from stet.core.policy import Policy, TokenPolicy
from stet.policies import available, resolve
from stet.policies.requested import with_requested

ENTRY = "stet"
"""The entry of vLLM's `additional_config` that holds the settings, and of a request's `extra_args`
(over HTTP `vllm_xargs`) that names its policy."""

ALL = "all"
"""Among the policies that are allowed: every one."""

UNAVAILABLE: Mapping[Need, str] = {
    Need.TARGET_HIDDEN: "the target's hidden states",
    Need.DRAFT_HIDDEN: "the draft's hidden states",
}
"""What vLLM does not hand to whoever verifies its drafts."""

_ALONE = ("target", "draft", "majority")
_LONGEST = 1000
"""Characters of a request's choice."""


class Settings(BaseModel):
    """The entry "stet" of vLLM's `additional_config`.

    Attributes:
        policy: of requests that name none, as they would name it: "top-k", "top-k:k=5", or a name
            in `named`.
        named: further policies by the names under which they are offered: a policy's name or the
            path of a calibrated one's file, or an object of `policy` and its parameters, such as
            {"policy": "cospec", "arbiter": "path or hub name"}. They need no permission.
        allow: policies beside the lossless ones that requests may choose; "all" for every one.
        trace: say of each token of an answer who wrote it and why it stands.
        check_pair: refuse arbiters and calibrated policies of another pair.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    policy: str = "exact"
    named: dict[str, str | dict[str, Any]] = Field(default_factory=dict)
    allow: list[str] = Field(default_factory=list)
    trace: bool = True
    check_pair: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """The policy of a request.

    Attributes:
        name: under which it is offered.
        policy: the policy.
    """

    name: str
    policy: TokenPolicy


class Desk:
    """The policies of an engine, by the names under which requests choose them.

    Args:
        settings: the operator's.

    Raises:
        OptionError: a policy that does not exist, or cannot be used inside vLLM.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._named = {name: _named(name, spec) for name, spec in settings.named.items()}
        for name in settings.allow:
            if name != ALL:
                usable(resolve(name))
        # Most requests of a server choose alike, and each choice is made in several places.
        self._choose = lru_cache(maxsize=1024)(self._parse)
        name, values = _parsed(settings.policy)
        self.default = Choice(name, self._own(name, values))

    @property
    def policies(self) -> list[Choice]:
        """The policies that the operator has named, the default first."""
        return [self.default, *(Choice(name, policy) for name, policy in self._named.items())]

    def choose(self, extra_args: Mapping[str, Any] | None) -> Choice:
        """The policy of a request.

        Args:
            extra_args: of the request's sampling parameters.

        Raises:
            OptionError: there is no such policy, it is not allowed, or it cannot be used here.
        """
        asked = (extra_args or {}).get(ENTRY)
        if asked is None:
            return self.default
        if isinstance(asked, str):
            return self._choose(asked)
        if isinstance(asked, Mapping) and isinstance(asked.get("policy"), str):
            values = {str(key): value for key, value in asked.items() if key != "policy"}
            return self._choice(asked["policy"], values)
        raise OptionError(
            f"{ENTRY!r} is {quoted(str(asked))!r}; give a policy, such as 'top-k' or "
            "'top-k:k=5,delta=0.5'."
        )

    def _parse(self, asked: str) -> Choice:
        return self._choice(*_parsed(asked))

    def _own(self, name: str, values: dict[str, Any]) -> TokenPolicy:
        """The operator's policy for requests that name none."""
        if name not in self._named:
            return usable(resolve(name, values))
        if values:
            raise OptionError(f"Give the parameters of {name!r} where it is named, in `named`.")
        return self._named[name]

    def _choice(self, name: str, values: Mapping[str, Any]) -> Choice:
        policy = self._named.get(name) or self._offered(name)
        return Choice(name, with_requested(policy, values, name))

    def _offered(self, name: str) -> TokenPolicy:
        """A policy that no operator has named, if a request may choose it."""
        allowed = self.settings.allow
        offered = [*self._named, *_lossless(), *(n for n in allowed if n != ALL)]
        listed = f"this engine offers: {', '.join(offered)}"
        if name in _ALONE or name.partition(".")[0] not in {policy.name for policy in available()}:
            raise OptionError(f"There is no policy {quoted(name)!r}; {listed}.")
        policy = usable(resolve(name))
        if not (policy.lossless or name in allowed or ALL in allowed):
            raise OptionError(f"Policy {name!r} is not allowed; {listed}.")
        return policy


def read_settings(given: Any) -> Settings:
    """The settings in vLLM's `additional_config`.

    Raises:
        OptionError: an unknown entry, or a value of another type.
    """
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise OptionError(
            f"additional_config[{ENTRY!r}] cannot be used: {first_problem(error, ENTRY)}."
        ) from error


def usable(policy: Policy) -> TokenPolicy:
    """A policy, if it can decide inside vLLM.

    Raises:
        OptionError: it decides about more than tokens, or needs what vLLM does not hand over.
    """
    if not isinstance(policy, TokenPolicy):
        raise OptionError(
            f"Policy {policy.name!r} decides about whole steps or answers, which cannot be taken "
            "back inside vLLM; run it in Stet with vLLM as the target (`stet generate --target "
            "http://...`)."
        )
    for need, what in UNAVAILABLE.items():
        if need in policy.needs:
            raise OptionError(
                f"Policy {policy.name!r} reads {what}, which vLLM does not hand over; choose one "
                "that does without, such as an arbiter trained with other features."
            )
    return policy


def _named(name: str, spec: str | Mapping[str, Any]) -> TokenPolicy:
    if isinstance(spec, str):
        return usable(resolve(spec))
    chosen = spec.get("policy")
    if not isinstance(chosen, str):
        raise OptionError(f"named[{name!r}] names no policy; give {{'policy': ...}}.")
    return usable(resolve(chosen, {key: value for key, value in spec.items() if key != "policy"}))


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A policy's name and parameters, of `NAME:parameter=value,...`."""
    if len(text) > _LONGEST:
        raise OptionError(f"A policy of {len(text)} characters was asked for; {_LONGEST} are read.")
    name, _, rest = text.partition(":")
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        parameter, equals, value = item.partition("=")
        if not equals or not parameter.strip():
            raise OptionError(
                f"{quoted(text)!r}: {quoted(item)!r} is not of the form parameter=value."
            )
        values[parameter.strip()] = value_of(value.strip())
    return name.strip(), values


def _lossless() -> Sequence[str]:
    return [policy.name for policy in available() if policy.lossless]
