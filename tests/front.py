"""A server in front of another one: it refuses, changes or drops what it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from served import MODEL
from stet import RemoteTarget, load_pair
from stet.bundled import DRAFT
from stet.pair import Pair

Body = dict[str, Any]


@dataclass
class Front:
    """What stands in front of a server.

    Attributes:
        behind: the address of the server behind, with /v1.
        refuses: gives the reason for refusing a body with status 400; None for taking it.
        alters: changes an answer before it is passed on.
        fails: gives the status with which a body is failed; None for none.
        drops: whether connections are cut without an answer.
        delay: seconds before each answer.
        seen: bodies so far.
        asked: paths of other requests so far.
    """

    behind: str
    refuses: Callable[[Body], str | None] = lambda body: None
    alters: Callable[[Body, Any], None] = lambda body, answer: None
    fails: Callable[[Body], int | None] = lambda body: None
    drops: bool = False
    delay: float = 0.0
    seen: list[Body] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def tell(self, **wishes: Any) -> None:
        """Set what it does; forgets everything else, and what it has seen."""
        fresh = Front(self.behind, **wishes, url=self.url)
        vars(self).update(vars(fresh))


@contextmanager
def front(behind: str) -> Iterator[Front]:
    """Run a front in a thread."""
    state = Front(behind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.drops:
                return self.drop()
            return self.answer(200, {"data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.seen.append(body)
            time.sleep(state.delay)
            if state.drops:
                return self.drop()
            if (status := state.fails(body)) is not None:
                return self.answer(status, {"error": {"message": "told to fail"}})
            if (reason := state.refuses(body)) is not None:
                return self.answer(400, {"error": {"message": reason}})
            found = httpx2.post(f"{state.behind}/completions", json=body, timeout=60)
            answer = found.json()
            if found.status_code == 200:
                state.alters(body, answer)
            return self.answer(found.status_code, answer)

        def drop(self) -> None:
            self.close_connection = True
            self.connection.close()

        def answer(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def remote_pair(*urls: str, **more: Any) -> Pair:
    """The bundled draft, with its target behind an address, or behind several."""
    target = RemoteTarget(list(urls), MODEL, **({"backoff": 0.02} | more))
    return load_pair(target, DRAFT, dtype="float32", max_length=600, compile=False)
