"""Finding graders by name: the built-in ones, and those of other packages.

Another package offers a grader through the entry-point group `stet.graders`; a script registers
one with the decorator, or names a function as "module:function".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from stet.errors import OptionError
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.function import FunctionGrader

GROUP = "stet.graders"

_graders: dict[str, type[Grader]] = {}
_loaded_entry_points = False

G = TypeVar("G", bound=type[Grader])


def register(grader: G) -> G:
    """Class decorator: make a grader available under its name.

    Raises:
        OptionError: if another grader has that name.
    """
    known = _graders.get(grader.name)
    if known is not None and known.__qualname__ != grader.__qualname__:
        raise OptionError(
            f"A grader named {grader.name!r} exists already ({known.__module__}); choose another."
        )
    _graders[grader.name] = grader
    return grader


def available_graders() -> list[type[Grader]]:
    """Every registered grader class, sorted by name."""
    global _loaded_entry_points
    if not _loaded_entry_points:
        _loaded_entry_points = True
        for entry in entry_points(group=GROUP):
            loaded: Any = entry.load()
            if loaded.name not in _graders:
                register(loaded)
    return sorted(_graders.values(), key=lambda grader: grader.name)


def resolve_grader(grader: str | Grader, settings: Mapping[str, Any] | None = None) -> Grader:
    """The grader that a user means.

    Args:
        grader: a grader, the name of one, or "module:function" for a function of two texts (what
            was written, the reference) that says whether it is right.
        settings: with a name, the values of its settings.

    Raises:
        OptionError: for an unknown name or setting, listing the known ones.
    """
    if not isinstance(grader, str):
        if settings:
            raise OptionError("Give settings with a grader's name, or a finished grader.")
        return grader
    if ":" in grader:
        return _imported(grader)
    known = {cls.name: cls for cls in available_graders()}
    if grader not in known:
        raise OptionError(
            f"There is no grader {grader!r}; choose from {', '.join(known)}, or name a function "
            f"as module:function."
        )
    chosen: Any = known[grader]
    names = [f.name for f in fields(chosen)] if is_dataclass(chosen) else []
    for name in settings or {}:
        if name not in names:
            listed = ", ".join(names) or "none"
            raise OptionError(f"Grader {grader!r} has no setting {name!r}; it has: {listed}.")
    finished: Grader = chosen(**(settings or {}))
    return finished


def _imported(name: str) -> Grader:
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(f"The grader {name!r} cannot be imported: {error}.") from error
    if isinstance(found, type) and isinstance(found, Grader):
        found = found()
    if isinstance(found, Grader):
        return found
    if not callable(found):
        raise OptionError(f"{name!r} is neither a grader nor a function.")
    return FunctionGrader(found, label=name)
