"""The routes of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from stet.bundled import DRAFT, TARGET
from stet.pair import LOOKUP, Pair
from stet.requests.chat import has_template
from stet.serve.answers import whole_response
from stet.serve.errors import ApiError, api_error, invalid
from stet.serve.http import Gate, error_response
from stet.serve.logs import Log
from stet.serve.metrics import Metrics
from stet.serve.policies import PolicyDesk
from stet.serve.running import Runs
from stet.serve.settings import ServeSettings
from stet.serve.sse import ClientGone, EventStream, answer_while_connected, client_gone
from stet.serve.streams import stream_response
from stet.serve.turns import Turns
from stet.serve.wire.chat import ChatBody
from stet.serve.wire.completions import CompletionBody
from stet.serve.wire.fields import Body
from stet.serve.wire.problems import problem_of
from stet.serve.work import Reader, Work

PAGE = Path(__file__).parent / "page"
LOOK_AHEAD = 2
"""Sequences that are handed to the engine beside those that it decodes, so that it never waits."""

MOST_BODIES = 64
"""Requests whose bodies come at one time; more are refused (429)."""

_BODY_SECONDS = 60.0
"""Seconds in which a request's body has to come."""

B = TypeVar("B", bound=BaseModel)


class Server:
    """A pair behind an HTTP interface.

    Args:
        pair: the models; with `prefix_caching` a chat's next turn is read from where it is new.
        settings: what is offered, and where the bounds are.
        log: where lines about requests go.

    Attributes:
        app: the ASGI application.
    """

    def __init__(self, pair: Pair, settings: ServeSettings, log: Log) -> None:
        self.pair = pair
        self.settings = settings
        self.log = log
        self.desk = PolicyDesk(settings, pair)
        self.reader = Reader(pair, settings, self.desk)
        self.turns = Turns(pair.max_batch + LOOK_AHEAD, settings.max_queue)
        self.metrics = Metrics(pair, self.turns, self.reader.model, self.desk.offers, log)
        self.runs = Runs(pair, self.turns, self.metrics)
        self.draining = False
        self._receiving = 0
        self._files = {path.name: path for path in PAGE.iterdir() if path.suffix in _TYPES}
        self.app = self._routes()

    def drain(self) -> None:
        """Take no more requests; those that wait for their turn are refused."""
        self.draining = True
        self.turns.close(_shutting_down())

    def fail_all(self) -> None:
        """End every request with an error, as its client will be told."""
        self.runs.fail_all(_shutting_down())

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="Stet",
            version=version("stet-decoding"),
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        app.add_middleware(Gate, settings=self.settings, metrics=self.metrics, log=self.log)
        app.add_exception_handler(ApiError, _show)
        app.add_exception_handler(HTTPException, _show_http)
        app.add_exception_handler(Exception, _show)
        for path, body, kind in (
            ("/v1/completions", CompletionBody, "text_completion"),
            ("/v1/chat/completions", ChatBody, "chat.completion"),
        ):
            app.add_api_route(
                path,
                self._endpoint(body),
                methods=["POST"],
                response_model=None,
                summary=f"Write a {kind}.",
                openapi_extra={"requestBody": _schema(body, self.reader.models)},
                responses=_ERRORS,
            )
        for path, route, media, statuses in (
            ("/v1/models", self._models, _JSON, ()),
            ("/v1/models/{model:path}", self._model, _JSON, (404,)),
            ("/v1/policies", self._policies, _JSON, ()),
            ("/health", self._health, _JSON, (503,)),
            ("/ready", self._ready, _JSON, (503,)),
            ("/version", self._version, _JSON, ()),
            ("/metrics", self._metrics, "text/plain", ()),
            ("/", self._page, "text/html", ()),
            ("/page/{name}", self._page_file, "text/javascript", (404,)),
        ):
            app.add_api_route(
                path,
                route,
                methods=["GET", "HEAD"],
                response_model=None,
                responses={
                    200: {"description": "Found.", "content": {media: {}}},
                    **{status: _ERRORS[status] for status in (401, 403, 421, *statuses)},
                },
            )
        return app

    # Writing

    def _endpoint(self, kind: type[Body]) -> Any:
        async def endpoint(request: Request) -> Response:
            note: dict[str, Any] = {}
            request.scope["state"]["log"] = note
            try:
                self.turns.check()
                media = request.headers.get("content-type", "")
                data = await self._received(request)
                body = await asyncio.to_thread(read_body, kind, media, data)
                work = await asyncio.to_thread(self.reader.read, body)
                note |= _note(work)
                if self.settings.log_texts:
                    note["texts"] = {"body": body.model_dump(exclude_none=True), "answers": {}}
                if work.stream:
                    return EventStream(
                        stream_response(self.runs, work, note),
                        stall=self.settings.stall,
                        on_end=lambda error: self._noted(note, error),
                    )
                found = await answer_while_connected(request, whole_response(self.runs, work))
            except ClientDisconnect as error:
                raise client_gone() from error
            except Exception as error:
                shown = api_error(error)
                self._noted(note, shown)
                raise shown from error
            note["completion_tokens"] = found["usage"]["completion_tokens"]
            if self.settings.log_texts:
                note["texts"]["answers"] = found["choices"]
            text = await asyncio.to_thread(json.dumps, found, ensure_ascii=False)
            return Response(text.encode("utf-8", "replace"), media_type=_JSON)

        endpoint.__doc__ = f"Run a {kind.__name__}."
        return endpoint

    async def _received(self, request: Request) -> bytes:
        """The body of a request, which has to come in some time; few come at a time."""
        if self._receiving >= MOST_BODIES:
            raise ApiError(
                429, "Too many requests come at once; try later.", code="busy", retry_after=1
            )
        self._receiving += 1
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await request.body()
        except TimeoutError:
            raise ApiError(408, "The body did not come in time.", code="body_timeout") from None
        finally:
            self._receiving -= 1

    def _noted(self, note: dict[str, Any], error: Exception | None) -> None:
        if error is None:
            return
        if isinstance(error, ClientGone):
            note["error"] = "ClientGone"
            return
        shown = api_error(error)
        note["error"] = shown.message
        if shown.code is not None:
            self.metrics.refused(shown.code)

    # Asking

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._entry(name) for name in self.reader.models]}

    async def _model(self, model: str) -> dict[str, Any]:
        if model not in self.reader.models:
            raise ApiError(
                404, "There is no such model here.", param="model", code="model_not_found"
            )
        return self._entry(model)

    def _entry(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "stet",
            "max_model_len": self.pair.max_length,
        }

    async def _policies(self) -> dict[str, Any]:
        pair = self.pair
        return {
            "default": self.desk.default,
            "pair": {
                "target": _shown(pair.target.name),
                "draft": LOOKUP if pair.draft is None else _shown(pair.draft.name),
            },
            "lossy_allowed": any(not offer.lossless for offer in self.desk.offers),
            "max_tokens": self.settings.max_output or pair.max_length,
            "chat": has_template(pair.tokenizer),
            "policies": self.desk.describe(),
        }

    async def _health(self) -> Response:
        broken = self.pair.engine.broken
        if broken is not None:
            return error_response(ApiError(503, str(broken), code="device_failed"))
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> Response:
        if self.draining:
            return error_response(_shutting_down())
        return await self._health()

    async def _version(self) -> dict[str, str]:
        return {"version": version("stet-decoding")}

    async def _metrics(self) -> Response:
        text = await asyncio.to_thread(self.metrics.text)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _page(self) -> Response:
        return await self._page_file("index.html")

    async def _page_file(self, name: str) -> Response:
        path = self._files.get(name)
        if path is None:
            raise ApiError(404, "There is no such file.", code="not_found")
        # A browser asks whether a file has changed, or an upgrade would leave it with old ones.
        headers = {"Cache-Control": "no-cache"}
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=headers)


_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

_JSON = "application/json"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {_JSON: {}}}
    for status, text in (
        (400, "The request cannot be run; the error names the field."),
        (401, "The API key is missing or wrong."),
        (403, "The policy, or the web page, is not allowed."),
        (404, "There is no such model."),
        (413, "The body is too large."),
        (415, "The body is no JSON."),
        (421, "The server is not known under this name."),
        (429, "The queue is full."),
        (503, "The server is shutting down, or has no room."),
    )
}


def read_body(kind: type[B], content_type: str, data: bytes) -> B:
    """Read the JSON of a body.

    Raises:
        ApiError: it is not what it should be, naming the first field.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise ApiError(415, "Send JSON, with Content-Type: application/json.", code="content_type")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        param, sentence = problem_of(error)
        raise invalid(sentence, param) from None
    except (ValueError, RecursionError) as error:
        raise invalid("The body is no JSON that can be read.") from error


def _schema(body: type[Body], models: Sequence[str]) -> dict[str, Any]:
    """A body's schema, whole, as OpenAPI shows it.

    Args:
        body: the body.
        models: names of models that it may have.
    """
    schema = body.model_json_schema(mode="validation")
    schema["properties"]["model"] = {"type": "string", "enum": [*models]}
    return {"required": True, "content": {"application/json": {"schema": _inlined(schema, schema)}}}


def _inlined(part: Any, whole: dict[str, Any]) -> Any:
    """A schema in which nothing refers to elsewhere."""
    if isinstance(part, dict):
        if "$ref" in part:
            return _inlined(whole["$defs"][part["$ref"].rpartition("/")[2]], whole)
        return {key: _inlined(value, whole) for key, value in part.items() if key != "$defs"}
    if isinstance(part, Sequence) and not isinstance(part, str):
        return [_inlined(value, whole) for value in part]
    return part


def _shown(name: str) -> str:
    """A model's name as the page shows it: without the folders that it is in."""
    path = Path(name)
    return f"bundled/{path.name}" if path in (TARGET, DRAFT) else path.name


def _note(work: Work) -> dict[str, Any]:
    """What the log says of a request."""
    return {
        "id": work.id,
        "policy": work.offer.name,
        "sequences": work.count,
        "prompt_tokens": sum(prompt.tokens for prompt in work.prompts),
        "stream": work.stream,
    }


def _shutting_down() -> ApiError:
    return ApiError(
        503, "The server is shutting down; ask another one.", code="shutting_down", retry_after=5
    )


async def _show(_: Request, error: Exception) -> Response:
    return error_response(api_error(error))


async def _show_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "method_not_allowed"
    shown = error_response(ApiError(error.status_code, f"{error.detail}.", code=code))
    shown.headers.update(error.headers or {})
    return shown
