"""What stands before every route: who may ask, how much, and under which id."""

from __future__ import annotations

import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

from stet.serve.errors import ApiError
from stet.serve.logs import Log
from stet.serve.metrics import Metrics
from stet.serve.settings import ServeSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
"""What the page may load: nothing from elsewhere, and no scripts but its own files."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", POLICY.encode()),
)
_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


def error_response(error: ApiError) -> JSONResponse:
    """The response that an error becomes."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


class Gate:
    """Checks requests before anything reads them, and notes what became of each.

    Args:
        app: the routes.
        settings: the server's.
        metrics: are told of every response.
        log: is told of it, too.
    """

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics, log: Log) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _decoded(scope)
        given = headers.get("x-request-id", "")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name
        began = time.monotonic()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", name.encode()), *_HEADERS, *self._shared(headers)]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            try:
                self._check(scope, headers)
                if _asks_for_leave(scope, headers):
                    await Response(status_code=204)(scope, receive, answer)
                    return
                await self._app(scope, self._bounded(headers, receive), answer)
            except ApiError as error:
                await error_response(error)(scope, receive, answer)
        finally:
            status = scope["state"].get("status", status)
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self._metrics.answered(path, status)
            self._log.request(
                name, scope["method"], path, status, time.monotonic() - began, scope["state"]
            )

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse requests of web pages and names that are not the operator's, and without a key.

        A web page of anybody's can have a browser send requests to a server on its own machine;
        it says where the page is from, and under which name the server was found.
        """
        settings = self._settings
        host = headers.get("host", "")
        if settings.hosts is not None and _name(host) not in settings.hosts:
            raise ApiError(
                421, "This server is not known under this name; see --allow-host.", code="host"
            )
        origin = headers.get("origin")
        if not (origin is None or origin in settings.origins or _netloc(origin) == host):
            raise ApiError(
                403,
                "Pages of this origin may not use this server; see --allow-origin.",
                code="origin",
            )
        is_open = not scope["path"].startswith("/v1/") or scope["method"] == "OPTIONS"
        if settings.api_key is not None and not is_open:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            wanted = settings.api_key.encode()
            same = hmac.compare_digest(key.strip().encode("latin-1"), wanted)
            if scheme.lower() != "bearer" or not same:
                raise ApiError(
                    401,
                    "A valid API key is needed: Authorization: Bearer KEY.",
                    code="invalid_api_key",
                )

    def _bounded(self, headers: dict[str, str], receive: Receive) -> Receive:
        """Receive a body of bounded size."""
        most = self._settings.max_body
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise _too_large(most)
            return message

        return bounded

    def _shared(self, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        """Headers by which a browser lets an allowed page of elsewhere read the response."""
        origin = headers.get("origin")
        if origin is None or origin not in self._settings.origins:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"origin"),
        ]


def _asks_for_leave(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a browser asks whether a page of elsewhere may send a request."""
    asked = "origin" in headers and "access-control-request-method" in headers
    return asked and scope["method"] == "OPTIONS"


def _decoded(scope: Scope) -> dict[str, str]:
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return {name.lower(): value for name, value in pairs}


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if "@" in host:
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is larger than {most} bytes; send less.", code="body_too_large")
