"""Structured logs: one line of JSON for each request, without what was asked or answered."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import IO, Any


class Log:
    """Writes lines of JSON.

    Args:
        stream: where to; None: nowhere.
    """

    def __init__(self, stream: IO[str] | None = sys.stderr) -> None:
        self._stream = stream

    def write(self, event: str, **fields: Any) -> None:
        """Write a line.

        Args:
            event: what happened.
            **fields: what is known of it; what is None is left out.
        """
        if self._stream is None:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        known = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": stamp, "event": event, **known}, default=str)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # its reader has gone; the server goes on

    def request(
        self,
        name: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        state: Mapping[str, Any],
    ) -> None:
        """Write the line of a request.

        Args:
            name: its id.
            method: of HTTP.
            path: of the route.
            status: of the response.
            seconds: from its beginning to the end of the response.
            state: what the route noted of it.
        """
        if path in _QUIET and status < 400:
            return
        self.write(
            "request",
            request_id=name,
            method=method,
            path=path,
            status=status,
            seconds=round(seconds, 4),
            **state.get("log", {}),
        )


_QUIET = frozenset({"/health", "/ready", "/metrics"})
"""Routes that machines ask again and again."""
