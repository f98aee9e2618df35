"""Finding policies by name: the built-in ones, and those of other packages.

Another package offers a policy through the entry-point group `stet.policies`; a script registers
one with the decorator. Both then work everywhere a policy is named.
"""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any, TypeVar

from stet.errors import OptionError
from stet.policies.base import Policy

GROUP = "stet.policies"

_policies: dict[str, type[Policy]] = {}
_loaded_entry_points = False

P = TypeVar("P", bound=type[Policy])


def register(policy: P) -> P:
    """Class decorator: make a policy available under its name.

    Raises:
        OptionError: if another policy has that name.
    """
    known = _policies.get(policy.name)
    if known is not None and known.__qualname__ != policy.__qualname__:
        raise OptionError(
            f"A policy named {policy.name!r} exists already ({known.__module__}); choose another."
        )
    _policies[policy.name] = policy
    return policy


def available() -> list[type[Policy]]:
    """Every registered policy class, sorted by name."""
    global _loaded_entry_points
    if not _loaded_entry_points:
        _loaded_entry_points = True
        for entry in entry_points(group=GROUP):
            loaded: Any = entry.load()
            if loaded.name not in _policies:
                register(loaded)
    return sorted(_policies.values(), key=lambda policy: policy.name)


def resolve(policy: str | Policy, parameters: dict[str, Any] | None = None) -> Policy:
    """The policy that a user means.

    Args:
        policy: a policy, or the name of one.
        parameters: with a name, the values of its parameters.

    Raises:
        OptionError: for an unknown name or parameter, listing the known ones.
    """
    if not isinstance(policy, str):
        if parameters:
            raise OptionError("Give parameters with a policy's name, or a finished policy.")
        return policy
    known = {cls.name: cls for cls in available()}
    if policy not in known:
        raise OptionError(f"There is no policy {policy!r}; choose from {', '.join(known)}.")
    chosen: Any = known[policy]
    names = [f.name for f in fields(chosen)]
    for name in parameters or {}:
        if name not in names:
            listed = ", ".join(names) or "none"
            raise OptionError(f"Policy {policy!r} has no parameter {name!r}; it has: {listed}.")
    finished: Policy = chosen(**(parameters or {}))
    return finished
