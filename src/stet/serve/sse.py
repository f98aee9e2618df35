"""A response of server-sent events, which ends when its client goes or stops reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stet.serve.errors import ApiError, api_error
from stet.serve.http import Receive, Scope, Send, error_response

GONE = 499
"""The status in logs and metrics of a request whose client has gone, as nginx has it."""

DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client has closed the connection, or does not read any more."""


def client_gone() -> ApiError:
    """The error for a request whose client has gone; nobody is told of it."""
    return ApiError(GONE, "The client has closed the connection.")


def event(data: Mapping[str, Any]) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


class EventStream(Response):
    """Events as they come.

    The status is sent with the first of them, so that what fails before it has one of its own. A
    later failure is an event with an `error`, after which the stream ends.

    Args:
        events: makes the events; it is closed in any case.
        stall: seconds after which a client that takes nothing is given up.
        on_end: is told of the error that ended the stream, or None.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[dict[str, Any]],
        *,
        stall: float,
        on_end: Callable[[Exception | None], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.raw_headers[[name for name, _ in self.raw_headers].index(b"content-length")]
        self._events = events
        self._stall = stall
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        failed: Exception | None = None
        started = False

        async def give(message: dict[str, Any]) -> None:
            try:
                async with asyncio.timeout(self._stall):
                    await send(message)
            except (TimeoutError, OSError) as error:
                raise ClientGone from error

        async def write() -> None:
            nonlocal failed, started
            async with aclosing(self._events) as events:  # type: ignore[type-var]
                try:
                    async for data in events:
                        if not started:
                            started = True
                            await give(
                                {
                                    "type": "http.response.start",
                                    "status": 200,
                                    "headers": self.raw_headers,
                                }
                            )
                        await give(
                            {"type": "http.response.body", "body": event(data), "more_body": True}
                        )
                except ClientGone:
                    raise
                except Exception as error:
                    failed = error
                    if not started:
                        return
                    body = event(api_error(error).body())
                    await give({"type": "http.response.body", "body": body, "more_body": True})
            await give({"type": "http.response.body", "body": DONE, "more_body": False})

        try:
            await while_connected(receive, write())
        except ClientGone as error:
            failed = error
            scope["state"]["status"] = GONE
        if failed is not None and not started and not isinstance(failed, ClientGone):
            await error_response(api_error(failed))(scope, receive, send)
        self._on_end(failed)


async def while_connected(receive: Receive, work: Any) -> Any:
    """Await work for as long as its client is there.

    Args:
        receive: tells when the client goes; the body was read already.
        work: a coroutine.

    Raises:
        ClientGone: the client went first; the work is cancelled by then.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer_while_connected(request: Request, work: Any) -> Any:
    """`while_connected` for a route; a client that has gone is sent nothing more.

    Raises:
        ApiError: 499, which nobody reads, where the client has gone.
    """
    try:
        return await while_connected(request.receive, work)
    except ClientGone as error:
        raise client_gone() from error
