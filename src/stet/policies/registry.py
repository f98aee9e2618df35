"""Policies by name; other packages add theirs by the entry-point group `stet.policies`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import isabstract
from typing import Any, TypeVar

from stet.core.errors import OptionError
from stet.core.policy import AnswerPolicy, Policy, TokenPolicy
from stet.core.registry import Registry
from stet.core.step_policy import StepPolicy
from stet.policies.artefact import SUFFIX, read_record
from stet.policies.reference import fitted_as, with_fitted

KINDS: tuple[type[Policy], ...] = (TokenPolicy, StepPolicy, AnswerPolicy)
"""The base classes of policies; every policy derives from one of them."""

C = TypeVar("C", bound=type[Any])


class PolicyRegistry(Registry[Policy]):
    """Policies by name; a class that is not a valid policy is refused when it is registered."""

    def register(self, cls: C) -> C:
        """Class decorator that makes a policy available under its name.

        Raises:
            OptionError: another class has that name; or it derives from none of the base classes,
                lacks the abstract method, or has an attribute that no policy has.
        """
        check_class(cls)
        return super().register(cls)


def check_class(cls: type[Any]) -> None:
    """Check that a class is a valid policy and has no attribute that would silently do nothing.

    Raises:
        OptionError: it is not; the message says what is wrong.
    """
    kind = next((kind for kind in KINDS if issubclass(cls, kind)), None)
    listed = ", ".join(kind.__name__ for kind in KINDS)
    if kind is None:
        raise OptionError(f"{cls.__name__} is no policy; derive it from one of {listed}.")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise OptionError(f"{cls.__name__} has no method {missing[0]!r}; define it.")
    if not isinstance(getattr(cls, "name", None), str):
        raise OptionError(f"{cls.__name__} has no `name`; give it one, a string.")
    # What a base says that leaves a method open, such as `CombinedPolicy`, means something to it.
    bases = [kind, *(base for base in cls.__mro__ if isabstract(base))]
    known = {n for base in bases for n in dir(base) if not n.startswith("_")} | {"name"}
    own = {f.name for f in fields(cls)} if is_dataclass(cls) else set[str]()
    above = {id(base) for base in (*kind.__mro__, *bases)}
    for place in (base for base in cls.__mro__ if id(base) not in above):
        for name, value in vars(place).items():
            if name.startswith("_") or name in known or name in own:
                continue
            near = get_close_matches(name, known, n=1, cutoff=0.8)
            acts = callable(value) or hasattr(value, "__get__")  # a method or a property
            if near or not acts:
                advice = f"is it {near[0]!r}?" if near else "begin the names of your own with _."
                raise OptionError(
                    f"{cls.__name__} sets {name!r}, which is neither a parameter nor anything that "
                    f"a {kind.__name__} has; {advice}"
                )


POLICIES = PolicyRegistry("policy", "stet.policies")

register = POLICIES.register
available = POLICIES.available


def resolve(policy: str | Policy, parameters: dict[str, Any] | None = None) -> Policy:
    """The policy that a name, a file or a policy object stands for.

    Args:
        policy: a policy, the name of one, or the path of a `.json` file that holds one.
        parameters: values of its parameters, where it is given by name or file.

    Raises:
        OptionError: for an unknown name or parameter, listing the known ones.
    """
    if isinstance(policy, str):
        if policy.endswith(SUFFIX):
            return _resolve_file(policy, parameters or {})
        return POLICIES.make(policy, parameters)
    if parameters:
        raise OptionError("Give parameters with a policy's name, or a finished policy, not both.")
    return policy


def _resolve_file(path: str, parameters: dict[str, Any]) -> Policy:
    """The policy in a file, with some parameters changed."""
    name, stored, record = read_record(path)
    made = with_fitted(POLICIES.make(name, stored), record, path)
    if not parameters:
        return made
    changed = POLICIES.make(name, {**stored, **parameters})
    return fitted_as(changed, made)
