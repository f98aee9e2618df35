"""Graders by name; other packages add theirs through the entry-point group `stet.graders`.

A function is named as "module:function".
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from stet.core.errors import OptionError
from stet.core.registry import Registry
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.function import FunctionGrader

GRADERS: Registry[Grader] = Registry("grader", "stet.graders", value="setting")

register = GRADERS.register
available_graders = GRADERS.available


def resolve_grader(grader: str | Grader, settings: Mapping[str, Any] | None = None) -> Grader:
    """Find or make a grader.

    Args:
        grader: a grader, the name of one, or "module:function" for a function of two texts (the
            answer, the reference) that decides whether the answer is right.
        settings: with a name, the values of its settings.

    Raises:
        OptionError: for an unknown name or setting, listing the known ones.
    """
    if not isinstance(grader, str):
        if settings:
            raise OptionError("Give settings with a grader's name, or a finished grader.")
        return grader
    if ":" in grader:
        return _import(grader)
    return GRADERS.make(grader, settings, hint=", or name a function as module:function")


def _import(name: str) -> Grader:
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
