"""A small OpenAI-compatible completions server: a real process, which runs the bundled target.

    python tests/remote/server.py [--key KEY]

prints its port. What it should do wrong is told to it under /control, see `Control`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stet import load_pair
from stet.bundled import TARGET

MODEL = "bundled-target"


@dataclass
class Control:
    """What the server is to do, and what it has seen.

    Attributes:
        faults: one for each of the next requests: {"status": 503}, {"retry_after": "1"},
            {"body": "..."}, {"wait": seconds}, {"drop": true}, {"die": true}, {"location": "..."}.
        word: said in place of "stop"; null is sent for "".
        says_why: whether answers tell at which stop string they ended.
        keeps_stop: whether the stop string stays in the text.
        slow: seconds that every answer takes at least.
        bodies: requests so far.
        keys: their authorization.
        most: requests at a time, at most.
    """

    faults: list[dict[str, Any]] = field(default_factory=list)
    word: str = "stop"
    says_why: bool = True
    keeps_stop: bool = False
    slow: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0


control, lock = Control(), threading.Lock()
busy = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pair: Any = None
    key: str | None = None

    def do_GET(self) -> None:
        self.answer(200, asdict(control))

    def do_POST(self) -> None:
        global busy
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            with lock:
                vars(control).update(asdict(Control(**body)))
            return self.answer(200, {})
        with lock:
            busy += 1
            control.most = max(control.most, busy)
            control.bodies.append(body)
            control.keys.append(self.headers.get("Authorization"))
            fault = control.faults.pop(0) if control.faults else {}
        try:
            time.sleep(control.slow)
            if not self.failed(fault):
                self.complete(body)
        finally:
            with lock:
                busy -= 1

    def failed(self, fault: dict[str, Any]) -> bool:
        if "die" in fault:
            os._exit(1)
        if "drop" in fault:
            self.close_connection = True
            self.connection.close()
            return True
        time.sleep(fault.get("wait", 0))
        headers = {"Retry-After": fault["retry_after"]} if "retry_after" in fault else {}
        if "location" in fault:
            headers["Location"] = fault["location"]
        status = fault.get("status", 429 if "retry_after" in fault else 200)
        if "body" in fault:
            self.send(status, fault["body"].encode() * fault.get("times", 1), headers)
        elif status != 200:
            said = f"told to; {self.headers.get('Authorization')}"
            self.send(status, json.dumps({"error": {"message": said}}).encode(), headers)
        return "body" in fault or status != 200

    def complete(self, body: dict[str, Any]) -> None:
        if self.path != "/v1/completions" or body["model"] != MODEL:
            return self.answer(404, {"error": {"message": f"no model {body['model']}"}})
        if self.key is not None and self.headers.get("Authorization") != f"Bearer {self.key}":
            return self.answer(401, {"error": {"message": "wrong key"}})
        stops = body.get("stop", [])
        result = self.pair.generate(
            body["prompt"],
            "target",
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            frequency_penalty=body.get("frequency_penalty"),
            presence_penalty=body.get("presence_penalty"),
            seed=body.get("seed", 0),
            stop=stops,
        )
        whole = self.pair.tokenizer.decode(result.token_ids, skip_special_tokens=True)
        met = [s for s in stops if whole[len(result.text) :].startswith(s)]
        text = result.text + (met[0] if met and control.keeps_stop else "")
        reason = result.finish_reason
        choice = {"index": 0, "text": text, "finish_reason": reason}
        if reason == "stop":
            choice["finish_reason"] = control.word or None
        if control.says_why:
            choice["stop_reason"] = met[0] if met else None
        usage = {"completion_tokens": len(result.token_ids)}
        self.answer(200, {"object": "text_completion", "choices": [choice], "usage": usage})

    def answer(self, status: int, content: Any) -> None:
        self.send(status, json.dumps(content).encode(), {})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # whoever asked has gone

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--key")
    Handler.key = parser.parse_args().key
    Handler.pair = load_pair(TARGET, "lookup", dtype="float32", max_length=600, compile=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
