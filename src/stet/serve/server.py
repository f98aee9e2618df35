"""Running the server: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from stet.core.errors import OptionError, StetError
from stet.pair import Pair
from stet.serve.app import Server
from stet.serve.connections import Connection
from stet.serve.logs import Log
from stet.serve.settings import LOOPBACK, ServeSettings

BACKLOG = 512
MOST_CONNECTIONS = 2048
"""Connections at a time; more are refused (503)."""

_LAST = 5.0
"""Seconds that responses have left to say that they failed, after `ServeSettings.grace`."""


def listen(host: str, port: int) -> socket.socket:
    """Open the socket, before models are loaded: a port that is taken shows at once.

    Args:
        host: address or name; the loopback unless the operator says otherwise.
        port: 0 for any that is free.

    Raises:
        OptionError: it cannot be opened.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"The server cannot listen at {host}:{port} ({reason}).") from error
    return found


def hosts_of(host: str, more: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names under which a server may be addressed.

    On the loopback a web page could reach it under a name of its own that points there, and would
    then count as the server's own page.

    Args:
        host: where it listens.
        more: further names that the operator allows.
    """
    if host in LOOPBACK or host.startswith("127."):
        return (*LOOPBACK, host, *(name.lower() for name in more))
    return (host, *(name.lower() for name in more)) if more else None


def configuration(server: Server, settings: ServeSettings) -> uvicorn.Config:
    """How uvicorn runs a server."""
    return uvicorn.Config(
        server.app,
        log_config=None,
        access_log=False,
        workers=1,
        lifespan="off",
        http=Connection,
        ws="none",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(settings.grace + _LAST) + 1,
        backlog=BACKLOG,
    )


def run(
    pair: Pair,
    settings: ServeSettings,
    listener: socket.socket,
    *,
    log: Log | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal says to stop; then finish what is at work, and fail what is not done.

    Args:
        pair: the models.
        settings: what is offered, and where the bounds are.
        listener: an open socket.
        log: where lines about requests go; None: stderr.
        on_ready: called once when requests are taken.

    Raises:
        StetError: the server could not start.
    """
    log = log or Log()
    server = Server(pair, settings, log)
    running = _Uvicorn(configuration(server, settings), server, settings.grace, on_ready)
    log.write("start", model=server.reader.model, policy=server.desk.default)
    running.run(sockets=[listener])
    log.write("stop")
    if not running.started:
        raise StetError("The server could not start.")


class _Uvicorn(uvicorn.Server):
    """A uvicorn that gives requests some time to finish, and then fails those that have not."""

    def __init__(
        self,
        config: uvicorn.Config,
        server: Server,
        grace: float,
        on_ready: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._server = server
        self._grace = grace
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal; a second one stops at once."""
        # The base class would raise the signal again after it has stopped, and end in disorder.
        if self.should_exit:
            self.force_exit = True
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)
        self.should_exit = True

    def _drain(self) -> None:
        self._server.drain()
        assert self._loop is not None
        self._loop.call_later(self._grace, self._server.fail_all)
