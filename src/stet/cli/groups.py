"""Option groups: dataclasses as parameters of a command, for typer, which takes flat options only.

A group is a frozen dataclass whose fields are options. Commands share it as it is, or inherit from
it where a default or a help text differs:

    @dataclass(frozen=True, slots=True)
    class ModelOptions(OptionGroup):
        panel = "Models"
        dtype: Annotated[str, typer.Option(help="As saved, or another.")] = "auto"

    @with_groups
    def command(models: ModelOptions, as_json: AsJson = False) -> None: ...

typer sees the flat options `dtype` and `as_json`; the function gets a `ModelOptions`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from typer.models import ParameterInfo


class OptionGroup:
    """Base class of option groups, which are frozen dataclasses.

    Attributes:
        panel: the help panel of the options that name none; None: typer's own.
    """

    __slots__ = ()

    panel: ClassVar[str | None] = None


@dataclass(frozen=True, slots=True)
class After:
    """In the annotation of a field: help lists the option right after another one of its group.

    A group lists what it adds to its base class last, unless this says otherwise.

    Attributes:
        name: the field of that other option.
    """

    name: str


def with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Let a typer command take option groups as parameters.

    Args:
        function: the command. Each parameter annotated with an `OptionGroup` stands for the
            group's options, in their order; the others are options themselves.

    Returns:
        A function of the flat options, which builds the groups and calls the command.

    Raises:
        TypeError: for a group that is no dataclass, a default that is made by a factory, an
            `After` that names no earlier field, or two options of the same name.
    """
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, tuple[type[OptionGroup], list[str]]] = {}
    flat: dict[str, Parameter] = {}
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, OptionGroup):
            options = _list_options(kind)
            groups[parameter.name] = kind, [option.name for option in options]
        else:
            options = [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
        for option in options:
            if option.name in flat:
                raise TypeError(f"{function.__qualname__} has two options named {option.name!r}.")
            flat[option.name] = option
    # Those without a default need not come first: all are given by name.
    flat_signature = signature.replace(parameters=[*flat.values()])

    @wraps(function)
    def command(**values: Any) -> None:
        bound = flat_signature.bind(**values)
        bound.apply_defaults()
        given = bound.arguments
        built = {
            name: kind(**{option: given.pop(option) for option in options})
            for name, (kind, options) in groups.items()
        }
        function(**given, **built)

    command.__signature__ = flat_signature  # type: ignore[attr-defined]  # `inspect` reads it
    command.__annotations__ = {name: option.annotation for name, option in flat.items()}
    return command


def _list_options(group: type[OptionGroup]) -> list[Parameter]:
    """List the options of a group as parameters, in the order of the help."""
    if "__dataclass_fields__" not in vars(group):  # a base class that is one does not count
        raise TypeError(f"The option group {group.__name__} is no dataclass.")
    listed = fields(group)  # type: ignore[arg-type]  # a dataclass, as was checked
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=_read_default(group, field),
            annotation=_put_into_panel(hints[field.name], group.panel),
        )
        for field in _sort_fields(listed, hints)
    ]


def _read_default(group: type[OptionGroup], field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        raise TypeError(f"{group.__name__}.{field.name} needs a plain default, not a factory.")
    return Parameter.empty if field.default is MISSING else field.default


def _sort_fields(listed: Iterable[Field[Any]], hints: dict[str, Any]) -> list[Field[Any]]:
    """Move every field with an `After` behind the one that it names."""
    ordered: list[Field[Any]] = []
    for field in listed:
        at = len(ordered)
        for part in _parts(hints[field.name]):
            if isinstance(part, After):
                names = [other.name for other in ordered]
                if part.name not in names:
                    raise TypeError(f"{field.name!r} cannot come after {part.name!r}.")
                at = names.index(part.name) + 1
        ordered.insert(at, field)
    return ordered


def _put_into_panel(annotation: Any, panel: str | None) -> Any:
    """Give the option in an annotation its group's help panel, unless it names one itself."""
    kept: list[Any] = []
    for part in _parts(annotation):
        if isinstance(part, ParameterInfo) and part.rich_help_panel is None:
            part = copy(part)
            part.rich_help_panel = panel
        kept.append(part)
    return Annotated[(get_args(annotation)[0], *kept)] if kept else annotation


def _parts(annotation: Any) -> tuple[Any, ...]:
    """What an annotation says beside the type."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
