"""How numbers and settings are written in reports."""

from __future__ import annotations

import json
import math
from typing import Any

MISSING = "–"


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text: a real minus sign, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = format(value, form)
    if text.startswith(("-", "+")) and not text.strip("-+0."):
        text = text[1:]  # neither -0.0 nor +0.0
    return text.replace("-", "−")


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def settings_text(settings: dict[str, Any]) -> str:
    """Settings in one line: `key=value, ...`."""
    return ", ".join(f"{key}={_value(value)}" for key, value in settings.items()) or MISSING


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
