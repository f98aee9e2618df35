"""A server that replays recorded traces as `stet serve` streams them, in pieces of any size.

It serves the page's folder under the policy that `stet serve` sends with it, misbehaves where a
test asks it to, and counts the readers that went away. As a program it is for working on the page:

    python tests/browser/fake.py [PORT]
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "src" / "stet" / "serve" / "page"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
CSP = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def recorded() -> dict[str, dict[str, Any]]:
    """The recorded traces by name; see record.py."""
    return {record["name"]: record["trace"] for record in _records()}


def _records() -> list[dict[str, Any]]:
    lines = (HERE / "recorded.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


TEXTS = {int(i): text for record in _records() for i, text in record["texts"].items()}
"""Texts of drafted tokens, which the server adds to blocks and a trace does not hold."""


@dataclass
class Knobs:
    """How the server behaves.

    Attributes:
        key: the API key it wants.
        refuse: a status and a message for every question.
        retry_after: what it says with it.
        per_piece: tokens in a piece of a stream.
        pause: seconds between pieces.
        cut: bytes after which what is sent is cut and flushed; 0 for whole events.
        stall_after: pieces after which nothing more comes, until the reader goes.
        break_after: pieces after which the connection ends.
        fail_after: pieces after which an error comes inside the stream.
        gate: released once for every piece that may go on.
        late_steps: steps are told of with their last token, not with their first.
        late_blocks: blocks are told of with the last token of all.
        last_word: the trace at the end, where it is not the one that was streamed.
        traces: what is answered, by policy.
    """

    key: str | None = None
    refuse: tuple[int, str] | None = None
    retry_after: str | None = None
    per_piece: int = 3
    pause: float = 0.0
    cut: int = 0
    stall_after: int | None = None
    break_after: int | None = None
    fail_after: int | None = None
    gate: threading.Semaphore | None = None
    late_steps: bool = False
    late_blocks: bool = False
    last_word: dict[str, Any] | None = None
    chat: bool = True
    traces: dict[str, dict[str, Any]] = field(default_factory=recorded)


PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "top-k": [
        {"name": "k", "type": "int", "default": 3, "summary": "How many of the target's best."},
        {"name": "delta", "type": "float", "default": 1.0, "summary": "Slack."},
    ],
    "specguard": [
        {"name": "candidates", "type": "int", "default": 1, "summary": "Drafts of a step."},
        {"name": "threshold", "type": "float", "default": 0.7, "summary": "Lowest score."},
        {"name": "lower", "type": "float | None", "default": None, "summary": "Second bar."},
        {"name": "shadow", "type": "bool", "default": False, "summary": "Decide, do not act."},
        {"name": "selector", "type": "str", "default": "vote", "summary": "Who chooses."},
    ],
}
KINDS = {"target": "single", "draft": "single", "specguard": "step", "overrule": "step"}
SUMMARIES = {
    "target": "The target alone, one token per pass: the baseline of every speed-up.",
    "draft": "The draft alone, unverified: its own accuracy and speed.",
    "exact": "Accept a drafted token with probability min(1, p/q), else draw from the residual.",
    "top-k": "At a mismatch, the draft's token is accepted if it is among the target's k best.",
    "specguard": "The draft writes candidates of a step; the most consistent one is verified.",
}


class Server(ThreadingHTTPServer):
    """The server; `questions` are the bodies it was sent, `aborted` counts readers that left."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.knobs = Knobs()
        self.questions: list[tuple[str, dict[str, Any]]] = []
        self.aborted = 0
        self.finished = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def policies(self) -> dict[str, Any]:
        """What it offers."""
        names = [*self.knobs.traces, "forbidden"]
        return {
            "default": "exact",
            "pair": {"target": "bundled/target", "draft": "bundled/draft"},
            "lossy_allowed": True,
            "max_tokens": 1024,
            "chat": self.knobs.chat,
            "policies": [
                {
                    "name": name,
                    "kind": KINDS.get(name, "token"),
                    "lossless": name in {"exact", "target"},
                    "allowed": name != "forbidden",
                    "summary": SUMMARIES.get(name, f"What {name} does."),
                    "parameters": PARAMETERS.get(name, []),
                }
                for name in names
            ],
        }


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in {"/v1/policies", "/v1/models"}:
            if self._known():
                models = {"object": "list", "data": [{"id": "bundled/target", "object": "model"}]}
                self._json(200, self.server.policies() if path.endswith("policies") else models)
            return
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        file = PAGE / name
        if file.parent != PAGE or not file.is_file():
            self._json(404, {"error": {"message": f"There is no {path}."}})
            return
        self._send(200, TYPES[file.suffix], file.read_bytes())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.questions.append((self.path, body))
        knobs = self.server.knobs
        if not self._known():
            return
        if knobs.refuse:
            status, message = knobs.refuse
            self._json(status, {"error": {"message": message, "type": "x", "code": None}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for event in self._events(self.path.endswith("chat/completions"), body):
                self._write(f"data: {event}\n\n".encode())
            self.server.finished += 1
        except (BrokenPipeError, ConnectionResetError):
            self.server.aborted += 1
        self.close_connection = True

    def _known(self) -> bool:
        key = self.server.knobs.key
        if key is None or self.headers["Authorization"] == f"Bearer {key}":
            return True
        self._json(401, {"error": {"message": "The API key is missing or wrong."}})
        return False

    def _events(self, chat: bool, body: dict[str, Any]) -> Iterator[str]:
        knobs = self.server.knobs
        trace = knobs.traces[body["speculation"]["policy"]]
        started = time.monotonic()
        if chat:
            yield _chunk({"delta": {"role": "assistant", "content": ""}})
        for number, piece in enumerate(pieces(trace, knobs)):
            if number == knobs.stall_after:
                self._wait_for_end()
            if number == knobs.break_after:
                return
            if number == knobs.fail_after:
                yield json.dumps({"error": {"message": "The device ran out of memory."}})
                return
            if knobs.gate is not None:
                self._pass(knobs.gate)
            if knobs.pause:
                time.sleep(knobs.pause)
            share = piece.pop("share")
            real = time.monotonic() - started if knobs.pause else trace["seconds"] * share
            text = piece.pop("text")
            content = {"delta": {"content": text}} if chat else {"text": text}
            yield _chunk(content | {"speculation": piece | {"elapsed": real}})
        policy, seconds = trace["settings"]["policy"], trace["seconds"]
        if knobs.pause:
            seconds = time.monotonic() - started
            trace = trace | {"seconds": seconds}
        last = {
            "policy": policy,
            "lossless": trace["settings"]["lossless"],
            "trace": knobs.last_word or trace,
        }
        content = {"delta": {}} if chat else {"text": ""}
        reason = trace["finish_reason"]
        ended = content | {"finish_reason": reason, "speculation": last}
        yield _chunk(ended)
        usage = {"completion_tokens": len(trace["tokens"])}
        metrics = {"stet": {"policy": policy["name"], "seconds": seconds}}
        yield json.dumps({"choices": [], "usage": usage, "metrics": metrics})
        yield "[DONE]"

    def _write(self, data: bytes) -> None:
        cut = self.server.knobs.cut or len(data)
        for start in range(0, len(data), cut):
            self.wfile.write(data[start : start + cut])
            self.wfile.flush()

    def _gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0.02)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _wait_for_end(self) -> None:
        while not self._gone():
            pass
        raise BrokenPipeError

    def _pass(self, gate: threading.Semaphore) -> None:
        while not gate.acquire(timeout=0.02):
            if self._gone():
                raise BrokenPipeError

    def _json(self, status: int, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("Cache-Control", "no-store")
        if status == 429 and self.server.knobs.retry_after:
            self.send_header("Retry-After", self.server.knobs.retry_after)
        self.end_headers()
        self.wfile.write(data)


def _chunk(choice: dict[str, Any]) -> str:
    choices = [{"index": 0, "finish_reason": None} | choice]
    return json.dumps({"object": "chunk", "choices": choices}, ensure_ascii=False)


def pieces(trace: dict[str, Any], knobs: Knobs) -> Iterator[dict[str, Any]]:
    """A trace as the pieces of a stream: whole characters of text, tokens, blocks and steps."""
    tokens, sent, size, late = trace["tokens"], 0, knobs.per_piece, knobs.late_steps
    for start in range(0, len(tokens), size):
        end = min(start + size, len(tokens))
        # Text lags behind tokens, as it does in a decoder that holds back parts of characters.
        known = "".join(t["text"] for t in tokens[:end])
        until = len(known) if "\ufffd" not in known else len(trace["text"]) * start // len(tokens)
        until = len(trace["text"]) if end == len(tokens) else max(until, sent)
        told = range(start, end)
        piece = {
            "text": trace["text"][sent:until],
            "tokens": tokens[start:end],
            "blocks": [
                b | {"drafted_text": [TEXTS.get(i, f"·{i}") for i in b["drafted"]]}
                for b in trace["blocks"]
                if (len(tokens) - 1 if knobs.late_blocks else _last(b, len(tokens))) in told
            ],
            "steps": [
                s
                for s in trace["steps"]
                if (s["position"] + s["tokens"] - 1 if late else s["position"]) in told
            ],
            "share": end / len(tokens),
        }
        sent = until
        yield piece


def _last(block: dict[str, Any], count: int) -> int:
    """The last token that a block emitted: it is told of together with it."""
    emitted = block["accepted"] + (block["next_token"] is not None)
    return min(block["position"] + max(emitted, 1) - 1, count - 1)


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """A server that runs in a thread of its own."""
    server = Server(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    with serving(int(sys.argv[1]) if len(sys.argv) > 1 else 8000) as running:
        running.knobs.pause = 0.03
        print(running.url)
        threading.Event().wait()
