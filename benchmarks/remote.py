"""What Stet spends around the answers of a remote target: the target behind `stet serve` here.

    python benchmarks/remote.py                 # both pairs, the real one where it is there
    python benchmarks/remote.py --pairs bundled

Step by step, one answer at a time, the time of an answer is divided into the draft's (reading what
the target wrote included), the server's (from the last byte of a request until the head of its
response is there, as the client's socket sees it), and the rest, which is Stet's own: text, JSON,
HTTP, threads. With several answers at a
time, when these overlap, only a request's own time is divided: from asking to the answer. Server
and draft have one thread each, so that they do not take each other's cores.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _record import add
from _serve_process import server

from stet import RemoteTarget, load_pair
from stet.bundled import DRAFT, TARGET, generate
from stet.core.result import Result
from stet.pair import Pair
from stet.policies import SpecGuard, StepPolicy

MODEL = "served"
REAL = (".cache/models/coder-1.5b.gguf", ".cache/models/coder-0.5b.gguf")
PAIRS: dict[str, tuple[str, str]] = {"bundled": (str(TARGET), str(DRAFT)), "real": REAL}
POLICIES: dict[str, StepPolicy] = {
    "rewritten": SpecGuard(threshold=1.0),
    "sometimes": SpecGuard(threshold=0.6),
    "read": SpecGuard(scorer="target", target_threshold=0.3),
}
"""Every step is the server's; some are; each is read by it first."""

TOGETHER = 8
SENT, ANSWERED = "send_request_body.complete", "receive_response_headers.complete"


@dataclass
class Wire:
    """The server's share, as the client's sockets see it.

    Attributes:
        seconds: from each request's last byte to its response's head.
        requests: how many there were.
        opened: connections that were opened for them.
    """

    seconds: float = 0.0
    requests: int = 0
    opened: int = 0
    _sent: dict[int, float] = field(default_factory=dict)

    def watch(self, pair: Pair) -> None:
        """Have a pair's client tell of its requests."""
        connections = pair._client._connections
        opened = connections._open

        def watched(server: Any) -> Any:
            client = opened(server)
            client.event_hooks = {"request": [self._follow], "response": []}
            return client

        connections._open = watched

    async def _follow(self, request: Any) -> None:
        async def trace(event: str, info: dict[str, Any]) -> None:
            now = time.perf_counter()
            if event.endswith(SENT):
                self._sent[id(request)] = now
            elif event.endswith(ANSWERED):
                self.seconds += now - self._sent.pop(id(request))
                self.requests += 1
            elif event.endswith("connect_tcp.complete"):
                self.opened += 1

        request.extensions["trace"] = trace


@dataclass
class Read:
    """Seconds in which the draft has read what it had not written, which no counter has."""

    seconds: float = 0.0

    def watch(self, pair: Pair) -> None:
        """Have a pair's engine tell of its reading."""
        prefill = pair.engine._prefill
        forward = prefill._forward

        def watched(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return forward(*args)
            finally:
                self.seconds += time.perf_counter() - began

        prefill._forward = watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=tuple(PAIRS), default=tuple(PAIRS))
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--keep", action="store_true", help="measure, and write no result")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    for name in options.pairs:
        if not all(Path(model).exists() for model in PAIRS[name]):
            print(f"Without the {name} pair: there is no {' or '.join(PAIRS[name])}.")
            continue
        found = measured(name, options)
        suffix = "" if name == "real" else f"_{name}"
        alone = [row for row in found if row["answers_at_a_time"] == 1]
        figures[f"remote_time_outside_server{suffix}"] = max(row["outside"] for row in alone)
        figures[f"remote_ms_outside_server{suffix}"] = max(row["outside_ms"] for row in alone)
        rows += found
    if not options.keep:
        print(add("scale", "remote", rows, figures))


def measured(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    target, draft = PAIRS[name]
    rows: list[dict[str, Any]] = []
    texts = [problem.prompt for problem in generate("stories", "test", options.answers)]
    serve = ["--target", target, "--draft", draft, "--threads", "1", "--max-batch", "16"]
    serve += ["--served-model-name", MODEL, "--max-length", "1024"]
    if name == "bundled":
        serve += ["--dtype", "float32"]
    with server(serve) as running:
        remote = RemoteTarget(f"{running.url}/v1", MODEL)
        wanted: dict[str, Any] = {"dtype": "float32"} if name == "bundled" else {}
        with load_pair(remote, draft, max_length=1024, **wanted) as pair:
            wire, read = Wire(), Read()
            wire.watch(pair)
            read.watch(pair)
            # Once for each pair, not for each step: connections, imports, how texts can be read.
            for text in texts[:3]:
                for policy in POLICIES.values():
                    pair.generate(text, policy, max_new_tokens=32)
            for label, policy in POLICIES.items():
                for together in (1, TOGETHER):
                    row = measure(pair, wire, read, texts, policy, together, options.tokens)
                    row = {"part": "remote", "pair": name, "policy": label, **row}
                    print(json.dumps(row), flush=True)
                    rows.append(row)
    return rows


def measure(
    pair: Pair,
    wire: Wire,
    read: Read,
    texts: list[str],
    policy: StepPolicy,
    together: int,
    tokens: int,
) -> dict[str, Any]:
    """Answer texts, so many at a time, and divide the time of their steps."""
    wire.seconds, wire.requests, wire.opened = 0.0, 0, 0
    read.seconds = 0.0
    results: list[Result] = []
    for start in range(0, len(texts), together):
        results += pair.generate(texts[start : start + together], policy, max_new_tokens=tokens)
    if failed := [result.error for result in results if result.error]:
        raise SystemExit(failed[0])
    steps = sum(len(result.steps) for result in results)
    drafted = sum(result.counters.draft_seconds for result in results) + read.seconds
    asked = sum(result.counters.target_seconds for result in results)
    whole = sum(result.seconds for result in results) if together == 1 else asked
    own = whole - wire.seconds - (drafted if together == 1 else 0.0)
    return {
        "answers_at_a_time": together,
        "answers": len(results),
        "steps": steps,
        "requests": wire.requests,
        "connections_opened": wire.opened,
        "ms_per_step": round(1000 * whole / steps, 2),
        "draft_ms": round(1000 * drafted / steps, 2),
        "server_ms": round(1000 * wire.seconds / steps, 2),
        "outside_ms": round(1000 * own / steps, 3),
        "outside": round(own / whole, 4),
        "outside_of_requests": round((asked - wire.seconds) / asked, 4),
    }


if __name__ == "__main__":
    main()
