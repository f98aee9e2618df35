"""Which policies a server offers, and how a request chooses one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stet.core.errors import NAME, StetError, quoted
from stet.pair import Pair
from stet.policies import (
    AnswerPolicy,
    Policy,
    StepPolicy,
    TokenPolicy,
    available,
    resolve,
)
from stet.policies.requested import ParameterError, free_parameters, reader, with_requested
from stet.serve.errors import ApiError, invalid
from stet.serve.settings import ServeSettings

ALONE: Mapping[str, str] = {
    "target": "The target alone, one token per pass: the baseline of every speed-up.",
    "draft": "The draft alone, unverified: its own accuracy and speed.",
}
"""Decoding with one model alone, which requests choose like a policy."""

ALL = "all"
"""Among the policies that are allowed: every one."""

PREFIX = "stet/"
"""Before the name of a policy it makes the name of a model, for clients that can choose no more."""

Kind = Literal["token", "step", "answer", "single"]


@dataclass(frozen=True)
class Offer:
    """A policy that requests may choose.

    Attributes:
        name: its name on this server.
        policy: the policy with the operator's parameters, or the name of one model alone.
    """

    name: str
    policy: str | Policy

    @property
    def lossless(self) -> bool:
        """Whether its texts follow the target's own distribution."""
        policy = self.policy
        return policy == "target" if isinstance(policy, str) else policy.lossless

    @property
    def kind(self) -> Kind:
        """What it decides about."""
        if isinstance(self.policy, TokenPolicy):
            return "token"
        if isinstance(self.policy, StepPolicy):
            return "step"
        return "answer" if isinstance(self.policy, AnswerPolicy) else "single"

    @property
    def reads_every_token(self) -> bool:
        """Whether the target reads every token of the answer, so that it has a probability."""
        return self.kind == "token" or self.policy == "target"

    def describe(self) -> dict[str, Any]:
        """The offer as a JSON object."""
        policy = self.policy
        if isinstance(policy, str):
            summary, chosen = ALONE[policy], []
        else:
            summary = _summary(type(policy))
            chosen = [
                _describe(name, hint, policy) for name, hint in free_parameters(policy).items()
            ]
        return {
            "name": self.name,
            "kind": self.kind,
            "lossless": self.lossless,
            "summary": summary,
            "parameters": chosen,
        }

    def with_parameters(self, values: Mapping[str, Any]) -> str | Policy:
        """The policy with a request's values of its parameters.

        A request may choose numbers, switches and the words among which a parameter chooses. What
        names files, models or code is the operator's, and is refused.

        Raises:
            ApiError: for a parameter that the policy does not have, or that is the operator's, or a
                value that it refuses.
        """
        policy = self.policy
        if not values:
            return policy
        if isinstance(policy, str):
            raise invalid(f"{policy!r} decodes with one model and has no parameters.", _PARAM)
        try:
            return with_requested(policy, values, self.name)
        except ParameterError as error:
            param = _PARAM if error.parameter is None else f"{_PARAM}.{error.parameter}"
            raise invalid(str(error), param) from error


_PARAM = "speculation"


def _describe(name: str, hint: Any, policy: Policy) -> dict[str, Any]:
    """A parameter as a JSON object; its type as a JSON schema."""
    schema = reader(hint).json_schema()
    return {
        "name": name,
        "type": hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing."),
        "schema": schema,
        "default": getattr(policy, name),
        "summary": _attribute(type(policy), name),
    }


def _summary(cls: type[Any]) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _attribute(cls: type[Any], name: str) -> str:
    """What a class's docstring says of an attribute."""
    for base in cls.__mro__:
        lines = (inspect.getdoc(base) or "").splitlines()
        for place, line in enumerate(lines):
            if line.startswith(f"    {name}: "):
                found = [line.partition(": ")[2]]
                for more in lines[place + 1 :]:
                    if not more.startswith("        "):
                        break
                    found.append(more.strip())
                return " ".join(found)
    return ""


class PolicyDesk:
    """The policies of a server, by the names under which requests choose them.

    Args:
        settings: the server's.
        pair: the models; policies that these cannot be used with are not offered.

    Raises:
        StetError: the settings name a policy that does not exist, or one that this pair cannot be
            used with.
    """

    def __init__(self, settings: ServeSettings, pair: Pair) -> None:
        named: dict[str, str | Policy] = dict(settings.named)
        if settings.default not in named:
            named[settings.default] = settings.default
        named = {**{name: name for name in settings.allow if name != ALL}, **named}
        self._offers: dict[str, Offer] = {}
        self._forbidden: dict[str, Offer] = {}
        for name in every_name():
            try:
                offer = _offer(name, name, pair)
            except StetError:
                continue
            if ALL in settings.allow or (settings.lossless and offer.lossless):
                self._offers[name] = offer
            elif name not in named:
                self._forbidden[name] = offer
        for name, policy in named.items():
            self._offers[name] = _offer(name, policy, pair)
        self.default = settings.default

    @property
    def offers(self) -> list[Offer]:
        """All that requests may choose, the default first."""
        first = self._offers[self.default]
        return [first, *(o for o in self._offers.values() if o is not first)]

    def describe(self) -> list[dict[str, Any]]:
        """All policies that this pair can be used with, those that are not allowed last."""
        return [
            *({**offer.describe(), "allowed": True} for offer in self.offers),
            *({**offer.describe(), "allowed": False} for offer in self._forbidden.values()),
        ]

    def choose(self, name: str | None) -> Offer:
        """The policy of a request.

        Args:
            name: as the request names it; None: the default.

        Raises:
            ApiError: there is none of this name, or it is not allowed.
        """
        found = self._offers.get(self.default if name is None else name)
        if found is not None:
            return found
        listed = ", ".join(offer.name for offer in self.offers)
        if name in self._forbidden:
            raise ApiError(
                403,
                f"Policy {name!r} is not allowed on this server; it offers: {listed}.",
                param="speculation.policy",
                code="policy_not_allowed",
            )
        raise ApiError(
            400,
            f"There is no policy {quoted(str(name), NAME)!r}; this server offers: {listed}.",
            param="speculation.policy",
            code="policy_not_found",
        )


def every_name() -> list[str]:
    """The names of all policies and their presets, and of decoding with one model alone."""
    return [*ALONE, *(name for policy in available() for name in _names(policy))]


def _names(policy: type[Policy]) -> list[str]:
    """The names of a policy: its own, and those of its presets."""
    presets: tuple[str, ...] = getattr(policy, "presets", ())
    return [policy.name, *(f"{policy.name}.{preset}" for preset in presets)]


def _offer(name: str, policy: str | Policy, pair: Pair) -> Offer:
    """An offer with its policy made and checked, so that a mistake shows when the server starts."""
    if isinstance(policy, str) and policy not in ALONE:
        policy = resolve(policy)
    pair.check_policy(policy)
    return Offer(name, policy)
