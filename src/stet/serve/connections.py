"""A connection whose client does not get round to asking for anything is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0
"""Seconds in which the head of a request must be here whole: from the start of a connection for the
first one, and from its first byte for a further one."""


class Connection(H11Protocol):
    """A connection with a limit of time for the head of a request, which uvicorn lacks.

    Idle connections are closed by uvicorn, bodies are read with a limit by the server itself.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin; a request has to come."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what has come, which may be a part of a head."""
        super().data_received(data)
        if self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE:
            self._expect()
        else:
            self._cancel()

    def _expect(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
