"""Parameters of a policy that a client may choose for a request of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from stet.core.errors import NAME, OptionError, quoted
from stet.core.policy import Policy

P = TypeVar("P", bound=Policy)

_LARGEST = 2**31
"""The largest whole number of a parameter: what counts tokens or steps is far below."""


class ParameterError(OptionError):
    """A parameter that a client may not set, or a value that the policy refuses.

    Attributes:
        parameter: its name, as far as a message may quote it; None where several may be at fault.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


def free_parameters(policy: Policy) -> dict[str, Any]:
    """The parameters that a client may choose, with their types.

    They are numbers, switches and words of a list (`Literal`). What names files, models or code is
    the operator's.
    """
    hints = get_type_hints(type(policy))
    names = [field.name for field in fields(policy)]  # type: ignore[arg-type]
    return {name: hints[name] for name in names if _is_plain(hints[name])}


@cache
def reader(hint: Any) -> TypeAdapter[Any]:
    """Reads values of a type, without taking one for another."""
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def with_requested(policy: P, values: Mapping[str, Any], name: str) -> P:
    """A policy with a client's values of its parameters.

    Args:
        policy: the operator's.
        values: by name, as they came from outside.
        name: what the operator calls the policy.

    Raises:
        ParameterError: for a parameter that the policy does not have, or that is the operator's, or
            a value that it refuses.
    """
    if not values:
        return policy
    free = free_parameters(policy)
    given: dict[str, Any] = {}
    for parameter, value in values.items():
        shown = quoted(parameter, NAME)
        if parameter not in free:
            known = any(field.name == parameter for field in fields(policy))  # type: ignore[arg-type]
            why = "is set by the server's operator" if known else "does not exist"
            listed = ", ".join(sorted(free)) or "none"
            raise ParameterError(
                f"Parameter {shown!r} of policy {name!r} {why}; a request may set: {listed}.", shown
            )
        try:
            given[parameter] = reader(free[parameter]).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ParameterError(f"{parameter}: {problem}.", parameter) from error
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ParameterError(f"{parameter} is out of any range.", parameter)
    try:
        changed: P = replace(policy, **given)  # type: ignore[type-var]
    except OptionError as error:
        raise ParameterError(str(error)) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(f"Policy {name!r} cannot be made with these parameters.") from error
    return changed


def _is_plain(hint: Any) -> bool:
    """Whether all values of a type are numbers, switches or words of a list."""
    if get_origin(hint) in (Union, UnionType):
        return all(_is_plain(part) for part in get_args(hint))
    return hint in (bool, int, float, type(None)) or get_origin(hint) is Literal
