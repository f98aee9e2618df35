"""Connections to the servers of a remote target: one request, sent once, and what came of it."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

from stet.core.errors import OptionError, StetError
from stet.remote.explanations import message_of, quoted_without, seconds_of
from stet.remote.servers import Server
from stet.remote.target import KEY_VARIABLE, RemoteTarget, is_local

if TYPE_CHECKING:
    import httpx2

KEPT_OPEN = 60.0
"""Seconds for which a connection that nobody uses stays open, unless the server closes it."""

_PROBE_SECONDS = 5.0
"""Seconds in which a server that failed has to say that it is up again."""


class RemoteError(StetError):
    """A remote target could not be reached, or refused a request."""


class RefusedError(RemoteError):
    """A server takes no request of this form, such as one for log-probabilities."""


class Again(Exception):
    """A failure after which another try may succeed.

    Attributes:
        after: seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        self.after = after


class Connections:
    """Connections to servers, which are reused. All calls must come from one event loop.

    Args:
        target: the remote target.

    Raises:
        OptionError: the HTTP client is not installed.
    """

    def __init__(self, target: RemoteTarget) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise OptionError(
                "A remote target needs an HTTP client: pip install 'stet-decoding[remote]'."
            ) from error
        self._http = httpx2
        self._target = target
        self._clients: dict[Server, httpx2.AsyncClient] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._closer: weakref.finalize[..., Any] | None = None
        self._closed = False

    async def send(self, server: Server, body: dict[str, Any], largest: int) -> bytes:
        """Send a request once, and return what was answered.

        Args:
            server: who is asked.
            body: what is sent.
            largest: the most bytes of an answer.

        Raises:
            Again: another try may succeed.
            RefusedError: the server takes no such request.
            RemoteError: it refused it for another reason.
        """
        try:
            async with self._open(server).stream("POST", "completions", json=body) as response:
                content = await self._content(server, response, largest)
        except self._http.TransportError as error:
            raise Again(str(error) or type(error).__name__) from error
        status = response.status_code
        if status == 200:
            return content
        who, said = self.who(server), self.quote(message_of(content))
        if status in (408, 425, 429) or (status >= 500 and status != 501):
            after = seconds_of(response.headers.get("retry-after"))
            raise Again(f"status {status}: {said}", after)
        if response.is_redirect:
            raise RemoteError(
                f"{who} redirects to another address, which is not followed; name that address if "
                "you trust it."
            )
        if status in (401, 403):
            raise RemoteError(
                f"{who} refuses the key (status {status}: {said}); set {KEY_VARIABLE} or api_key."
            )
        if status == 404:
            raise RemoteError(
                f"{who} does not know the address or the model (status 404: {said}); the address "
                "usually ends in /v1."
            )
        raise RefusedError(f"{who} refuses the request (status {status}: {said}).")

    async def is_up(self, server: Server) -> bool:
        """Whether a server answers without a failure of its own, and soon, if asked for models."""
        try:
            # Its head is enough.
            async with (
                asyncio.timeout(_PROBE_SECONDS),
                self._open(server).stream("GET", "models") as answer,
            ):
                return answer.status_code < 500 and answer.status_code != 429
        except (TimeoutError, RemoteError, self._http.HTTPError):
            return False

    def hold(self, call: asyncio.Task[Any]) -> None:
        """Keep connections open until a call has ended, even where they are to be closed."""
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def close(self) -> None:
        """Close the connections as soon as the calls under way have ended; from any thread."""
        self._closed = True
        if self._closer is not None:
            self._closer()

    def who(self, server: Server) -> str:
        """A server, as a sentence begins with it."""
        return f"The remote target at {server.url}"

    def quote(self, content: str | bytes) -> str:
        """Quote a server's answer: short, on one line, and without the key."""
        return quoted_without(content, self._target.key)

    async def _content(self, server: Server, response: httpx2.Response, largest: int) -> bytes:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > largest:
                raise RemoteError(
                    f"{self.who(server)} sent more than {largest // 2**20} MiB, which is more than "
                    "an answer takes."
                )
        return bytes(content)

    def _open(self, server: Server) -> httpx2.AsyncClient:
        if self._closed:
            raise RemoteError("The pair was closed before this request had ended.")
        found = self._clients.get(server)
        if found is None:
            headers = {"Accept-Encoding": "identity"}
            if self._target.key is not None:
                headers["Authorization"] = f"Bearer {self._target.key}"
            most = self._target.concurrency
            found = self._clients[server] = self._http.AsyncClient(
                base_url=server.url,
                headers=headers,
                timeout=None,  # each try has its own limit
                # One for each request that may be under way, and one to ask whether it is up.
                limits=self._http.Limits(
                    max_connections=most + 1,
                    max_keepalive_connections=most + 1,
                    keepalive_expiry=KEPT_OPEN,
                ),
                follow_redirects=False,
                # No proxy for this machine's own addresses.
                trust_env=not is_local(server.url),
            )
            if self._closer is None:
                loop = asyncio.get_running_loop()
                self._closer = weakref.finalize(self, _close_soon, self._clients, self._calls, loop)
        return found


def _close_soon(
    clients: dict[Server, httpx2.AsyncClient],
    calls: set[asyncio.Task[Any]],
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Close the connections, in the loop that they belong to."""
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(_close(clients, calls), loop)


async def _close(clients: dict[Server, httpx2.AsyncClient], calls: set[asyncio.Task[Any]]) -> None:
    while calls:
        await asyncio.wait(calls)
    for client in clients.values():
        await client.aclose()
