"""Whatever happens to one request, the others' texts stay and nothing leaks."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import httpx2
import pytest
import torch

from served import MODEL, PROMPT, Served, serving
from stet import load_pair
from stet.core.blocks import Blocks
from stet.core.policy import TokenPolicy
from stet.core.verification import Verification
from stet.engine.failures import DeviceError
from stet.serve.settings import ServeSettings

PROBLEM = "Problem: Ann has {} boxes of 12 pens. How many pens?\nSolution:\n"
OTHERS = [PROBLEM.format(number) for number in range(2, 8)]
LONG = {"model": MODEL, "prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "stream": True}


def texts(served: Served) -> list[str]:
    """Greedy texts of several requests, asked for at once."""

    def ask(prompt: str) -> str:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 40, "temperature": 0}
        return served.post("/v1/completions", body).json()["choices"][0]["text"]

    with ThreadPoolExecutor(len(OTHERS)) as pool:
        return [*pool.map(ask, OTHERS)]


@pytest.fixture(scope="module")
def undisturbed(served: Served) -> list[str]:
    return [served.pair.generate(prompt, max_new_tokens=40).text for prompt in OTHERS]


def vanish_after(served: Served, lines: int, body: dict, *, reset: bool) -> None:
    """Open a stream by hand and close it after some events; 0: before the first."""
    host, port = served.url.removeprefix("http://").split(":")
    text = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + text)
        if lines:
            reader = connection.makefile("rb")
            seen = 0
            while seen < lines and (line := reader.readline()):
                seen += line.startswith(b"data:")
        if reset:
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("policy", "lines"),
    [("exact", 0), ("exact", 1), ("exact", 5), ("specguard.paper", 0), ("specguard.paper", 1)],
)
def test_clients_that_vanish(
    served: Served, undisturbed: list[str], policy: str, lines: int, reset: bool
) -> None:
    body = LONG | {"speculation": {"policy": policy}, "n": 2}
    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(texts, served)
        for _ in range(3):
            vanish_after(served, lines, body, reset=reset)
        assert found.result() == undisturbed
    assert served.idle()


def test_a_client_that_vanishes_without_a_stream(served: Served, undisturbed: list[str]) -> None:
    vanish_after(served, 0, LONG | {"stream": False}, reset=True)
    assert texts(served) == undisturbed
    assert served.idle(), "it is still being written"


def test_a_client_that_vanishes_in_the_middle_of_its_body(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        )
    assert served.idle()
    assert served.get("/health").status_code == 200


def test_a_slow_reader_holds_up_nobody(pair) -> None:
    """Its answer is written to the end; a client that takes nothing for long is dropped."""
    with serving(pair, ServeSettings(model=MODEL, allow=("all",), stall=0.5)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        body = LONG | {"n": 4, "speculation": {"metrics": "detailed"}, "logprobs": 20}
        text = json.dumps(body).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((host, int(port)))
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        connection.sendall(head.encode() + text)
        try:
            assert len(texts(served)) == len(OTHERS)
            assert served.idle(60)
            end = time.monotonic() + 30
            while "request" not in served.logged.getvalue().split("\n")[-2]:
                assert time.monotonic() < end
            lines = [json.loads(line) for line in served.logged.getvalue().splitlines()]
            (dropped,) = [line for line in lines if line.get("sequences") == 4]
            assert "ClientGone" in dropped["error"]
        finally:
            connection.close()


@dataclass(frozen=True)
class Raising(TokenPolicy):
    """Raises always."""

    name: ClassVar[str] = "raising"
    lossless: ClassVar[bool] = False

    def verify(self, blocks: Blocks) -> Verification:
        raise RuntimeError("a secret of the operator")


def test_a_policy_that_raises(pair, undisturbed: list[str]) -> None:
    settings = ServeSettings(model=MODEL, named={"raising": Raising()})
    with serving(pair, settings) as served, ThreadPoolExecutor(1) as pool:
        found = pool.submit(texts, served)
        for stream in (False, True):
            body = {"model": "stet/raising", "prompt": PROMPT, "stream": stream}
            answer = served.post("/v1/completions", body)
            assert answer.status_code == 500
            assert "RuntimeError" in answer.json()["error"]["message"]
            assert "secret" not in answer.text
        assert found.result() == undisturbed
        assert served.idle()


def test_logits_that_are_no_numbers(pair, undisturbed: list[str], monkeypatch) -> None:
    """The request at fault fails; who is decoded beside it does not."""
    poison = pair.encode("poison")
    runner = pair.engine.runners["target"]
    forward = runner.forward

    def poisoned(rows, tokens, *args, **options):
        found = forward(rows, tokens, *args, **options)
        if found.logits is not None:
            hit = [place for place, row in enumerate(rows) if row in bad]
            found.logits[hit] = torch.nan
        return found

    bad: list[object] = []
    allocate = runner.allocate

    def watched(tokens=()):
        row = allocate(tokens)
        if list(tokens[: len(poison)]) == poison:
            bad.append(row)
        return row

    monkeypatch.setattr(runner, "forward", poisoned)
    monkeypatch.setattr(runner, "allocate", watched)
    with serving(pair, ServeSettings(model=MODEL)) as served, ThreadPoolExecutor(1) as pool:
        found = pool.submit(texts, served)
        answer = served.post(
            "/v1/completions", {"model": MODEL, "prompt": "poison here", "temperature": 0}
        )
        assert answer.status_code == 500
        assert "not finite" in answer.json()["error"]["message"]
        assert found.result() == undisturbed
        assert served.idle()


def test_the_queue_overflows(pair, undisturbed: list[str]) -> None:
    with serving(pair, ServeSettings(model=MODEL, max_queue=2)) as served:
        body = LONG | {"n": 8}
        with httpx2.stream("POST", f"{served.url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            for _ in range(3):
                answer = served.post("/v1/completions", LONG | {"stream": False})
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] == "queue_full"
            assert "queue_full" in served.get("/metrics").text
        assert served.idle()
    with serving(pair, ServeSettings(model=MODEL)) as served:
        assert texts(served) == undisturbed


def test_a_request_that_takes_too_long(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, timeout=0.3)) as served:
        found = served.post("/v1/completions", LONG | {"stream": False, "n": 8}).json()
        if "choices" in found:
            reasons = {choice["stop_reason"] for choice in found["choices"]}
            assert "timeout" in reasons
            assert {choice["finish_reason"] for choice in found["choices"]} == {"length"}
        else:
            assert found["error"]["code"] == "queue_timeout"
        assert served.idle()


def test_a_device_that_fails() -> None:
    """All at work fail with a sentence, and health says that the server is to be restarted."""
    with (
        load_pair(max_batch=4, profile=False) as pair,
        serving(pair, ServeSettings(model=MODEL)) as served,
    ):
        pair.engine.broken = DeviceError("The device failed.")
        answer = served.post("/v1/completions", {"model": MODEL, "prompt": PROMPT})
        assert answer.status_code >= 500
        assert "device failed" in answer.json()["error"]["message"]
        for path in ("/health", "/ready"):
            assert served.get(path).status_code == 503


def test_reading_waits_in_the_queue_too(pair) -> None:
    """Prompts that are only read are no way around the queue."""
    with serving(pair, ServeSettings(model=MODEL, max_queue=0)) as served:
        body = {
            "model": MODEL,
            "prompt": [PROMPT] * 7,
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
        }
        assert served.post("/v1/completions", body).status_code == 400  # never fits
        assert served.post("/v1/completions", body | {"prompt": [PROMPT] * 6}).status_code == 200
        assert served.idle()


def test_a_body_that_never_comes(pair, monkeypatch) -> None:
    monkeypatch.setattr("stet.serve.app._BODY_SECONDS", 0.2)
    with serving(pair, ServeSettings(model=MODEL)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
            )
            assert b" 408 " in connection.recv(100)


def test_a_device_without_memory(pair, undisturbed: list[str], monkeypatch) -> None:
    """Passes that are too large are divided; nobody notices but by the time it takes."""
    runner = pair.engine.runners["target"]
    forward = runner.forward
    failed = 0

    def scarce(rows, *args, **options):
        nonlocal failed
        if len(rows) > 2:
            failed += 1
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows, *args, **options)

    monkeypatch.setattr(runner, "forward", scarce)
    with serving(pair, ServeSettings(model=MODEL)) as served:
        assert texts(served) == undisturbed
        assert served.idle()
    assert failed
