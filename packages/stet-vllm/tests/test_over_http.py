"""The plug-in behind vLLM's server, and Stet with such a server as its target."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from engines import TOKENS, own_pair, prompts

from stet import RemoteTarget, load_pair
from stet.bundled import DRAFT, TARGET
from stet.policies import resolve

START = 300.0


def serve(additional: dict[str, Any] | None) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    draft = {"method": "draft_model", "model": str(DRAFT), "num_speculative_tokens": 6}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TARGET)]
    command += ["--served-model-name", "bundled", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "16"]
    command += ["--trust-request-chat-template"]
    command += ["--enforce-eager", "--speculative-config", json.dumps(draft)]
    if additional is not None:
        command += ["--additional-config", json.dumps({"stet": additional})]
    environment = dict(os.environ) | {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    process = subprocess.Popen(command, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START
        while True:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server is not ready in time"
            try:
                if httpx2.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    yield from serve({"allow": ["top-k"]})


def ask(url: str, **body: Any) -> httpx2.Response:
    whole = {
        "model": "bundled",
        "prompt": list(prompts()[0]),
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    return httpx2.post(f"{url}/v1/completions", json={**whole, **body}, timeout=120)


def test_a_request_chooses_its_policy(url):
    plain = ask(url).json()
    chosen = ask(url, vllm_xargs={"stet": "top-k:k=5,delta=3.0"}).json()
    assert plain["metrics"]["speculative_decoding"]["stet"]["policy"] == "exact"
    record = chosen["metrics"]["speculative_decoding"]["stet"]
    assert (record["policy"], record["lossless"]) == ("top-k", False)
    assert plain["choices"][0]["text"] != chosen["choices"][0]["text"]
    assert len(record["tokens"]) == chosen["usage"]["completion_tokens"]
    assert {"draft", "target"} == {token["origin"] for token in record["tokens"]}
    assert chosen.get("kv_transfer_params") is None


def test_a_stream_ends_with_the_record(url):
    body = {"stream": True, "stream_options": {"include_usage": True}}
    lines = ask(url, vllm_xargs={"stet": "top-k"}, **body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    whole = ask(url, vllm_xargs={"stet": "top-k"}).json()
    assert (
        "".join(e["choices"][0]["text"] for e in events if e["choices"])
        == (whole["choices"][0]["text"])
    )
    record = events[-1]["metrics"]["speculative_decoding"]["stet"]
    assert record == whole["metrics"]["speculative_decoding"]["stet"]


def test_a_chat_chooses_too(url):
    body = {
        "model": "bundled",
        "messages": [{"role": "user", "content": "How many apples are 2 and 3 apples?"}],
        "max_tokens": 16,
        "temperature": 0,
        "vllm_xargs": {"stet": "top-k"},
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.json()["metrics"]["speculative_decoding"]["stet"]["policy"] == "top-k"


@pytest.mark.parametrize(
    ("asked", "why"),
    [("nope", "There is no policy 'nope'"), ("cospec", "not allowed"), ("top-k:k=0", "k is 0")],
)
def test_a_refusal_is_a_400_and_the_server_goes_on(url, asked, why):
    refused = ask(url, vllm_xargs={"stet": asked})
    assert refused.status_code == 400
    assert why in refused.text
    assert ask(url).status_code == 200


def test_stets_own_programs_with_vllm_as_the_target(url):
    """SpecGuard's texts are the local pair's at every threshold."""
    asked = [list(prompt) for prompt in prompts()[:8]]
    texts = [own_pair().tokenizer.decode(prompt) for prompt in asked]
    target = RemoteTarget(f"{url}/v1", model="bundled")
    with load_pair(target, DRAFT, dtype="float32") as remote:
        for threshold in (0.02, 0.3, 0.6, 0.95):
            rule = resolve("specguard", {"threshold": threshold})
            there = remote.generate(texts, rule, max_new_tokens=200)
            here = own_pair().generate(texts, rule, max_new_tokens=200)
            assert [r.error for r in there] == [None] * len(texts)
            assert [r.text for r in there] == [r.text for r in here]


RULES = [
    ("specguard", {"scorer": "target", "target_threshold": 0.3}),
    ("specguard", {"scorer": "target", "target_threshold": 0.95}),
    ("specguard", {"threshold": 0.9, "lower": 0.2}),
    ("specguard.overruling", {"overrule": 0.02}),
    ("spec-reason", {"threshold": 4.0}),
]


def test_steps_that_vllm_reads_and_rates_are_decided_as_here(url):
    asked = [list(prompt) for prompt in prompts()[:6]]
    texts = [own_pair().tokenizer.decode(prompt) for prompt in asked]
    with load_pair(RemoteTarget(f"{url}/v1", model="bundled"), DRAFT, dtype="float32") as remote:
        for name, parameters in RULES:
            rule = resolve(name, parameters)
            there = remote.generate(texts, rule, max_new_tokens=200)
            here = own_pair().generate(texts, rule, max_new_tokens=200)
            assert [r.error for r in there] == [None] * len(texts)
            assert [r.text for r in there] == [r.text for r in here]
            for one, other in zip(there, here, strict=True):
                decided = [[(s.decision, s.reason) for s in r.steps] for r in (one, other)]
                assert decided[0] == decided[1]
                for mine, theirs in zip(one.steps, other.steps, strict=True):
                    assert mine.signals == pytest.approx(theirs.signals, abs=1e-3)
            assert all(r.counters.target_read_tokens > 0 for r in there)


def test_the_trace_has_what_vllm_says_of_its_own_tokens(url):
    text = own_pair().tokenizer.decode(list(prompts()[0]))
    rule = resolve("specguard", {"threshold": 0.95})
    options = {"max_new_tokens": 200, "probabilities": True}
    with load_pair(RemoteTarget(f"{url}/v1", model="bundled"), DRAFT, dtype="float32") as remote:
        there = remote.generate(text, rule, **options)
    here = own_pair().generate(text, rule, **options)
    written = [
        (one.p_target, other.p_target)
        for one, other in zip(there.tokens, here.tokens, strict=True)
        if one.origin == other.origin == "target"
    ]
    assert written
    for one, other in written:
        assert one == pytest.approx(other, abs=1e-3)
