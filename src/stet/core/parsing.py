"""Reading what people and files say: values on a command line, and what a record got wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


def value_of(text: str) -> Any:
    """A number, true, false, null or list where the text is one in JSON, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def first_problem(error: ValidationError, whole: str) -> str:
    """Where a record first differs from its form, and how; `whole` names the record itself."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {first['msg']}"
