"""Who may ask, what is counted, and what is logged."""

from __future__ import annotations

import json
import re
import time

import httpx2
import openai
import pytest

from served import MODEL, PROMPT, Served, serving
from stet.core.errors import OptionError
from stet.serve.server import hosts_of, listen
from stet.serve.settings import ServeSettings

BODY = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}


def test_a_key(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, api_key="sk-secret")) as served:
        with pytest.raises(openai.AuthenticationError):
            served.client("wrong").completions.create(**BODY)
        assert served.client("sk-secret").completions.create(**BODY).choices
        for headers in ({}, {"authorization": "sk-secret"}, {"authorization": "Basic sk-secret"}):
            found = served.get("/v1/models", headers=headers)
            assert found.status_code == 401
            assert found.json()["error"]["code"] == "invalid_api_key"
            assert found.headers["www-authenticate"] == "Bearer"
        strange = "Bearer schl\xfcssel".encode("latin-1")
        odd = served.get("/v1/models", headers={"authorization": strange})
        assert odd.status_code == 401
        for path in ("/health", "/ready", "/version", "/metrics"):
            assert served.get(path).status_code == 200
        assert "sk-secret" not in served.logged.getvalue()


def test_pages_of_elsewhere_may_not_ask(pair) -> None:
    settings = ServeSettings(model=MODEL, origins=("https://mine.example",))
    with serving(pair, settings) as served:
        evil = served.post("/v1/completions", BODY, headers={"origin": "https://evil.example"})
        assert evil.status_code == 403
        same = served.post("/v1/completions", BODY, headers={"origin": served.url})
        assert same.status_code == 200
        mine = served.post("/v1/completions", BODY, headers={"origin": "https://mine.example"})
        assert mine.status_code == 200
        assert mine.headers["access-control-allow-origin"] == "https://mine.example"
        asked = httpx2.request(
            "OPTIONS",
            f"{served.url}/v1/completions",
            headers={
                "origin": "https://mine.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type",
            },
        )
        assert asked.status_code == 204
        assert "content-type" in asked.headers["access-control-allow-headers"]


def test_names_that_point_here_are_not_the_servers(served: Served) -> None:
    """A web page could give the loopback a name of its own, and would be at home there."""
    found = served.get("/v1/models", headers={"host": "evil.example"})
    assert found.status_code == 421
    assert served.get("/v1/models", headers={"host": "localhost:1234"}).status_code == 200
    assert hosts_of("0.0.0.0", ()) is None
    assert "stet.example" in (hosts_of("10.0.0.1", ("stet.example",)) or ())


def test_responses_cannot_be_taken_for_something_else(served: Served) -> None:
    headers = served.get("/v1/models").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]


def test_request_ids(served: Served) -> None:
    given = served.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    odd = served.get("/v1/models", headers={"x-request-id": "a b\x01" * 100})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])


def lines_of(served: Served, count: int) -> list[dict]:
    """The lines of the log; the last may come a moment after its response."""
    end = time.monotonic() + 20
    while (text := served.logged.getvalue()).count("\n") < count and time.monotonic() < end:
        time.sleep(0.01)
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_of_the_log(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        served.post("/v1/completions", BODY, headers={"x-request-id": "seen"})
        served.post("/v1/completions", BODY | {"n": 0})
        served.get("/health")
        first, second = lines_of(served, 2)
        assert first["request_id"] == "seen"
        assert (first["status"], first["policy"]) == (200, "exact")
        assert first["path"] == "/v1/completions"
        assert first["completion_tokens"] > 0
        assert second["status"] == 400
        assert "boxes" not in served.logged.getvalue()


def test_texts_are_logged_where_the_operator_asks(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, log_texts=True)) as served:
        answer = served.post("/v1/completions", BODY).json()["choices"][0]["text"]
        served.post("/v1/completions", BODY | {"stream": True})
        whole, stream = lines_of(served, 2)
        assert whole["texts"]["body"]["prompt"] == PROMPT
        assert whole["texts"]["answers"][0]["text"] == answer
        assert stream["texts"]["answers"]["0"] == answer


def value(text: str, name: str, **labels: str) -> float:
    """The value of a metric with these labels."""
    for line in text.splitlines():
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_metrics(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, allow=("all",))) as served:
        results = []
        for policy in ("exact", "specguard"):
            body = BODY | {"speculation": {"policy": policy, "metrics": "summary"}}
            results.append(served.post("/v1/completions", body).json())
        text = served.get("/metrics").text
        counts = [found["metrics"]["speculative_decoding"] for found in results]
        for name, key in (
            ("vllm:spec_decode_num_drafts_total", "num_spec_steps"),
            ("vllm:spec_decode_num_draft_tokens_total", "num_draft_tokens"),
            ("vllm:spec_decode_num_accepted_tokens_total", "num_accepted_draft_tokens"),
        ):
            assert value(text, name) == sum(count[key] for count in counts)
        at_least = [sum(c["acceptance_histogram"][1:]) for c in counts]
        name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        assert value(text, name, position="0") == sum(at_least)
        written = sum(found["usage"]["completion_tokens"] for found in results)
        assert value(text, "vllm:generation_tokens_total") == written
        assert value(text, "vllm:prompt_tokens_total") == sum(
            found["usage"]["prompt_tokens"] for found in results
        )
        assert value(text, "vllm:prefix_cache_hits_total") == sum(
            found["usage"]["prompt_tokens_details"]["cached_tokens"] for found in results
        )
        assert value(text, "vllm:request_success_total", finished_reason="stop") == 2
        assert value(text, "vllm:time_to_first_token_seconds_count") == 2
        assert value(text, "vllm:e2e_request_latency_seconds_count") == 2
        assert value(text, "vllm:num_requests_running") == 0
        assert value(text, "stet:sequences_total", policy="specguard", end="stop") == 1
        assert value(text, "stet:http_requests_total", path="/v1/completions", status="200") == 2
        tokens = [line for line in text.splitlines() if line.startswith("stet:tokens_total{")]
        assert sum(float(line.rpartition(" ")[2]) for line in tokens) == written
        steps = results[1]["metrics"]["stet"]
        assert value(text, "stet:steps_total", decision="accepted") == steps["accepted_steps"]


def test_prompts_that_are_only_read_count_too(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        body = BODY | {"prompt": [PROMPT] * 2, "max_tokens": 0, "echo": True, "logprobs": 1}
        found = served.post("/v1/completions", body).json()
        text = served.get("/metrics").text
        assert value(text, "vllm:prompt_tokens_total") == found["usage"]["prompt_tokens"]
        assert value(text, "stet:sequences_total", end="read") == 2


def test_what_clients_make_up_is_no_label(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL)) as served:
        for n in range(20):
            served.get(f"/v1/nothing-{n}")
            served.post("/v1/completions", BODY | {"model": f"stet/x{n}"})
        text = served.get("/metrics").text
        assert "nothing-" not in text
        assert "x19" not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_queue": -1},
        {"max_body": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"api_key": " "},
        {"origins": ("*",)},
    ],
)
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(OptionError):
        ServeSettings(**wrong)


def test_a_port_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(OptionError, match="cannot listen"):
        listen("127.0.0.1", first.getsockname()[1])
