"""Policies by name; other packages offer theirs through the entry-point group `stet.policies`."""

from __future__ import annotations

from typing import Any

from stet.errors import OptionError
from stet.policies.artefact import SUFFIX, read_artefact
from stet.policies.base import Policy
from stet.registry import Registry

POLICIES: Registry[Policy] = Registry("policy", "stet.policies")

register = POLICIES.register
available = POLICIES.available


def resolve(policy: str | Policy, parameters: dict[str, Any] | None = None) -> Policy:
    """The policy that a user means.

    Args:
        policy: a policy, or the name of one.
        parameters: with a name, the values of its parameters.

    Raises:
        OptionError: for an unknown name or parameter, listing the known ones.
    """
    if isinstance(policy, str):
        if policy.endswith(SUFFIX):
            policy, stored = read_artefact(policy)
            parameters = {**stored, **(parameters or {})}
        return POLICIES.make(policy, parameters)
    if parameters:
        raise OptionError("Give parameters with a policy's name, or a finished policy.")
    return policy
