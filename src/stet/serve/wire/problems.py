"""What is wrong with a body, as one sentence."""

from __future__ import annotations

from pydantic import ValidationError

from stet.core.errors import NAME, quoted

EXPECTED = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a text that is not empty, or a list of such texts",
    "logit_bias": "an object from token ids, as texts, to numbers",
    "content": "a text, or a list of parts of the type 'text'",
}
"""What a field may be, where there are several forms, of which an error would name but one."""


def problem_of(error: ValidationError) -> tuple[str | None, str]:
    """The field that is at fault, and a sentence about it.

    Args:
        error: of the whole body.
    """
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    if first["type"] == "refused":
        return quoted(context["param"], NAME), quoted(context["message"])
    if first["type"] == "json_invalid":
        return None, f"The body is no JSON that can be read: {context.get('error', 'invalid')}."
    names = [quoted(str(part), NAME) for part in first["loc"]]
    for at, name in enumerate(names):
        if name in EXPECTED and first["type"] != "missing":
            param = ".".join(names[: at + 1])
            return param, f"{param} must be {EXPECTED[name]}."
    if not names:
        return None, "The body must be a JSON object."
    place = ".".join(names[:4])
    if first["type"] == "missing":
        return place, f"{place} is missing."
    return place, f"{place}: {quoted(first['msg'])}."
