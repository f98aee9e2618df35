"""What servers say of their failures, in all its forms."""

from __future__ import annotations

import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any


def parse(content: bytes) -> Any:
    """An answer's JSON; None where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def message_of(content: bytes) -> str:
    """The message in an error of one of the usual forms; otherwise the whole content."""
    part = parse(content)
    # {"error": {"message": "..."}}, {"detail": [{"msg": "..."}]}, [{"error": "..."}] and so on.
    for _ in range(4):
        if isinstance(part, list) and part:
            part = part[0]
        elif isinstance(part, dict):
            part = next((part[n] for n in ("error", "message", "detail", "msg") if n in part), None)
    return part if isinstance(part, str) and part else content.decode(errors="replace")


def seconds_of(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header, which is a number of seconds or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def quoted_without(content: str | bytes, key: str | None) -> str:
    """Quote a server's answer: short, on one line, and without the key."""
    text = content.decode(errors="replace") if isinstance(content, bytes) else content
    if key is not None:
        text = text.replace(key, "***")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return repr(text[:200])
