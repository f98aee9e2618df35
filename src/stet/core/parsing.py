"""Parsing of values on a command line, and the first error in a record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


def value_of(text: str) -> Any:
    """The value of a text in JSON (a number, true, false, null or a list), else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def first_problem(error: ValidationError, whole: str) -> str:
    """Where a record first differs from its form, and how; `whole` names the record itself."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {first['msg']}"
