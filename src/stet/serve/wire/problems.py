"""What is wrong with a body, as one sentence."""

from __future__ import annotations

from pydantic import ValidationError

EXPECTED = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a text that is not empty, or a list of such texts",
    "logit_bias": "an object from token ids, as texts, to numbers",
    "content": "a text, or a list of parts of the type 'text'",
}
"""What a field may be, where there are several forms, of which an error would name but one."""


def first_problem(error: ValidationError) -> tuple[str | None, str]:
    """The field that is at fault, and a sentence about it.

    Args:
        error: of the whole body.
    """
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    if first["type"] == "refused":
        return _cut(context["param"], _LONGEST_NAME), _cut(context["message"], _LONGEST)
    if first["type"] == "json_invalid":
        return None, f"The body is no JSON that can be read: {context.get('error', 'invalid')}."
    names = [_cut(str(part), _LONGEST_NAME) for part in first["loc"]]
    for at, name in enumerate(names):
        if name in EXPECTED and first["type"] != "missing":
            param = ".".join(names[: at + 1])
            return param, f"{param} must be {EXPECTED[name]}."
    if not names:
        return None, "The body must be a JSON object."
    place = ".".join(names[:4])
    if first["type"] == "missing":
        return place, f"{place} is missing."
    return place, f"{place}: {_cut(first['msg'], _LONGEST)}."


_LONGEST_NAME, _LONGEST = 60, 300


def _cut(text: str, most: int) -> str:
    """What is said of a client's own words is short, and can be printed."""
    plain = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."
