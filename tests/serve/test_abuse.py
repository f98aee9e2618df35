"""What one client sends costs the others nothing, and says nothing that it should not."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import httpx2
import pytest

from served import CHAT, MODEL, PROMPT, Served, serving
from stet.serve import connections
from stet.serve.settings import ServeSettings

COMPLETION = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
CHATTING = {"model": MODEL, "messages": CHAT, "max_tokens": 4, "temperature": 0}
MANY = 300_000


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/v1/completions", {"prompt": [1.5] * MANY}),
        ("/v1/completions", {"prompt": [[]] * MANY}),
        ("/v1/completions", {"prompt": [[1], ["a"]] * (MANY // 2)}),
        ("/v1/completions", {"prompt": [1, "a"] * (MANY // 2)}),
        ("/v1/completions", {"prompt": [-1] * MANY}),
        ("/v1/completions", {"stop": [""] * MANY}),
        ("/v1/completions", {"stop_token_ids": [-1] * MANY}),
        ("/v1/completions", {"logit_bias": {f"x{n}": 1 for n in range(MANY // 4)}}),
        ("/v1/chat/completions", {"messages": [{}] * MANY}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * MANY}]}),
        ("/v1/chat/completions", {"chat_template_kwargs": {f"x{n}": 1 for n in range(MANY // 4)}}),
    ],
)
def test_a_wrong_body_holds_up_nobody(served: Served, path: str, change: dict) -> None:
    """Many wrong entries are one error; an error for each would take seconds and gigabytes."""
    base = COMPLETION if path == "/v1/completions" else CHATTING
    body = json.dumps(base | change, separators=(",", ":")).encode()
    began = time.process_time()
    found = httpx2.post(
        f"{served.url}{path}",
        content=body,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    spent = time.process_time() - began  # of the server, too, which is in this process
    assert found.status_code == 400
    assert len(found.text) < 1000
    assert spent < 3, "an error for each entry takes ten"


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "x", "S" + "x" * 500_000: 1}]},
        {"stream_options": {"a secret prompt " * 1000: 1}},
        {"chat_template_kwargs": {"a" * 500_000: 1}},
        {"model": "x" * 500_000},
        {"speculation": {"policy": "exact", "y" * 500_000: 1}},
    ],
)
def test_errors_and_logs_are_short(pair, change: dict) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        found = served.post("/v1/chat/completions", CHATTING | change)
        assert 400 <= found.status_code < 500
        assert len(found.text) < 1500
        assert len(served.logged.getvalue()) < 2000


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "assistant", "content": ""}], "continue_final_message": True},
        {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": {"self": 1}},
        {"chat_template_kwargs": {"not a name": 1}},
        {"speculation": {"policy": "fly", "window": 2**63 - 1}},
        {"speculation": {"policy": "fly", "window": 10**30}},
        {"model": "stet/nonsense", "speculation": {"policy": "exact"}},
        {"model": "stet/exact", "speculation": {"policy": "block"}},
    ],
)
def test_what_used_to_be_the_servers_fault(served: Served, change: dict) -> None:
    for stream in (False, True):
        found = served.post("/v1/chat/completions", CHATTING | change | {"stream": stream})
        assert found.status_code == 400, found.text


def test_requests_that_no_browser_sends(served: Served) -> None:
    assert served.get("/health", headers={"origin": "http://["}).status_code == 403
    assert served.get(f"/page/{'a' * 300}.html").status_code == 404
    assert served.get("/page/..%2fapp.py").status_code == 404
    assert served.get("/health", headers={"host": "evil@127.0.0.1"}).status_code == 421
    assert served.get("/health/").status_code == 404
    assert httpx2.head(f"{served.url}/health").status_code == 200


def test_a_prompt_at_the_edge_has_a_status_of_its_own(served: Served) -> None:
    ids = served.pair.encode("1 + 1 = ") * 400
    most = served.pair.max_length
    for stream in (False, True):
        for prompt in (ids[:most], [ids[:3], ids[:most]]):
            body = {"model": MODEL, "prompt": prompt, "echo": True, "stream": stream}
            found = served.post("/v1/completions", body)
            assert found.status_code == 400, found.text
            assert found.json()["error"]["code"] == "context_length_exceeded"
    fits = {"model": MODEL, "prompt": ids[: most - 1], "max_tokens": 1}
    assert served.post("/v1/completions", fits).status_code == 200


def test_characters_of_several_tokens_have_one_offset(served: Served) -> None:
    text = "😀 ab"
    body = {"model": MODEL, "prompt": text, "echo": True, "logprobs": 1, "max_tokens": 2}
    found = served.post("/v1/completions", body | {"temperature": 0}).json()["choices"][0]
    offsets = found["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)
    count = len(served.pair.encode(text))
    assert offsets[count] == len(text)
    assert offsets[0] == 0
    for offset, token in zip(offsets, found["logprobs"]["tokens"], strict=True):
        assert "\ufffd" in token or found["text"][offset:].startswith(token)


def test_sequences_whose_turn_does_not_come_end_with_what_they_have(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, timeout=0.6)) as served:
        body = {"model": MODEL, "prompt": PROMPT, "n": 60, "max_tokens": 900, "ignore_eos": True}
        found = served.post("/v1/completions", body)
        assert found.status_code == 200, found.text
        choices = found.json()["choices"]
        assert len(choices) == 60
        assert {choice["stop_reason"] for choice in choices} == {"timeout"}
        assert any(choice["text"] for choice in choices)
        assert served.idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_has_begun_is_finished(pair, stream: bool) -> None:
    """Also those of its sequences that still wait when the server is told to stop."""
    with serving(pair, ServeSettings(model=MODEL)) as served:
        body = {"model": MODEL, "prompt": PROMPT, "n": 12, "max_tokens": 200, "ignore_eos": True}
        found: list[httpx2.Response] = []
        asking = threading.Thread(
            target=lambda: found.append(served.post("/v1/completions", body | {"stream": stream}))
        )
        asking.start()
        while not served.pair.engine.running:
            time.sleep(0.005)
        served.call(served.server.drain)
        late = served.post("/v1/completions", COMPLETION)
        asking.join(60)
        assert late.status_code == 503
        assert found[0].status_code == 200
        assert "shutting_down" not in found[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_a_reading_that_the_server_ends_is_told(pair, stream: bool, monkeypatch) -> None:
    began = threading.Event()
    read = pair.aread

    async def slow(*args, **options):
        began.set()
        await asyncio.sleep(30)
        return await read(*args, **options)

    monkeypatch.setattr(pair, "aread", slow)
    with serving(pair, ServeSettings(model=MODEL)) as served:
        body = COMPLETION | {"echo": True, "logprobs": 1, "max_tokens": 0, "stream": stream}
        found: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: found.append(served.post("/v1/completions", body)))
        asking.start()
        began.wait(30)
        served.call(served.server.fail_all)
        asking.join(60)
        assert found[0].status_code == 503
        assert found[0].json()["error"]["code"] == "shutting_down"


def test_a_reading_that_takes_too_long(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, timeout=0.001)) as served:
        body = COMPLETION | {"prompt": PROMPT * 40, "echo": True, "logprobs": 1, "max_tokens": 0}
        found = served.post("/v1/completions", body)
        assert found.status_code == 503, found.text


def test_clients_that_go_are_no_faults_of_the_server(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        text = json.dumps(COMPLETION | {"n": 8, "max_tokens": 900, "ignore_eos": True}).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        ).encode()
        for sent in (head + text, head + text[:10]):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(sent)
                time.sleep(0.3)
        end = time.monotonic() + 20
        while served.logged.getvalue().count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.01)
        lines = [json.loads(line) for line in served.logged.getvalue().splitlines()]
        assert [line["status"] for line in lines] == [499, 499]
        assert served.idle()


def test_waiting_counts_as_time(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        body = COMPLETION | {
            "n": 24,
            "max_tokens": 100,
            "ignore_eos": True,
            "speculation": {"metrics": "summary"},
        }
        began = time.monotonic()
        found = served.post("/v1/completions", body).json()
        took = time.monotonic() - began
        text = served.get("/metrics").text
        name = "vllm:e2e_request_latency_seconds_sum"
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        assert float(line.rpartition(" ")[2]) > 6 * took  # of 24, in six rounds of four
        assert found["metrics"]["stet"]["queued_seconds"] > took / 3


def test_usage_of_every_piece_is_its_own_choices(served: Served) -> None:
    body = {
        "model": MODEL,
        "prompt": [PROMPT, "1 + 1 ="],
        "n": 2,
        "max_tokens": 12,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    lines = served.post("/v1/completions", body).text.splitlines()
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    *some, last = pieces
    by_choice = {p["choices"][0]["index"]: p["usage"] for p in some}
    written = sum(usage["completion_tokens"] for usage in by_choice.values())
    assert written == last["usage"]["completion_tokens"]
    lengths = [len(served.pair.encode(p)) for p in body["prompt"]]
    assert [by_choice[i]["prompt_tokens"] for i in range(4)] == [n for n in lengths for _ in "ab"]


def test_metrics_of_several_choices_in_a_stream(served: Served) -> None:
    body = COMPLETION | {"n": 2, "stream": True, "speculation": {"metrics": "summary"}}
    lines = served.post("/v1/completions", body).text.splitlines()
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [("metrics" in p) for p in pieces].count(True) == 1
    assert "metrics" in pieces[-1]


def ended(connection: socket.socket) -> bool:
    """Whether the server closes a connection, within the time that the socket waits."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nHost: 127"])
def test_a_head_that_does_not_come_whole_ends_the_connection(served, monkeypatch, said):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(said)
        assert ended(connection)


def test_a_second_head_has_its_time_too(served, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    host, port = served.url.removeprefix("http://").split(":")
    whole = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for _ in range(3):
            connection.sendall(whole)
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:20])
        assert ended(connection)


def test_a_slow_answer_is_not_a_slow_head(pair, monkeypatch):
    """The limit ends once a request is here, however long its answer takes."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.5)
    read = pair.aread

    async def slow(*args, **options):
        await asyncio.sleep(2.5)
        return await read(*args, **options)

    monkeypatch.setattr(pair, "aread", slow)
    with serving(pair, ServeSettings(model=MODEL)) as served:
        body = COMPLETION | {"echo": True, "logprobs": 1, "max_tokens": 0}
        assert served.post("/v1/completions", body).status_code == 200
