"""Requests as chat front ends send them: all fields at their defaults, and aborted streams."""

from __future__ import annotations

import json

import httpx2
import pytest

from served import CHAT, MODEL, Served

FRONT_ENDS = {
    "open-webui": {
        "stream": True,
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be brief."}, *CHAT],
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 60,
        "stop": ["<|end|>", "\n\n"],
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "seed": 42,
    },
    "librechat": {
        "model": MODEL,
        "user": "64f0c0ffee",
        "stream": True,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"]}]},
        ],
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stop": ["||>", "\nUser:"],
        "max_tokens": None,
    },
    "langchain": {
        "model": MODEL,
        "messages": CHAT,
        "stream": False,
        "n": 1,
        "temperature": 0.7,
        "logprobs": None,
        "tools": None,
        "tool_choice": None,
        "response_format": None,
        "parallel_tool_calls": None,
        "max_completion_tokens": 60,
    },
    "aider": {
        "model": MODEL,
        "messages": [{"role": "developer", "content": "Act."}, *CHAT],
        "stream": True,
        "temperature": 0,
        "n": 1,
        "reasoning_effort": None,
        "metadata": {"app": "x"},
        "store": False,
    },
}


@pytest.mark.parametrize("name", sorted(FRONT_ENDS))
def test_their_requests_are_answered(served: Served, name: str) -> None:
    body = FRONT_ENDS[name]
    # The bundled pair's template has no system prompts, and dropping one would be worse.
    messages = [m for m in body["messages"] if m["role"] not in ("system", "developer")]
    found = served.post("/v1/chat/completions", body | {"messages": messages})
    assert found.status_code == 200, found.text
    if body["stream"]:
        lines = [line for line in found.text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        pieces = [json.loads(line[6:]) for line in lines[:-1]]
        said = [p["choices"][0]["delta"].get("content") or "" for p in pieces if p["choices"]]
        assert "".join(said)
    else:
        assert found.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", ["open-webui", "aider"])
def test_a_system_prompt_that_a_template_drops_is_refused(served: Served, name: str) -> None:
    found = served.post("/v1/chat/completions", FRONT_ENDS[name])
    assert found.status_code == 400
    assert "system prompt" in found.json()["error"]["message"]


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_stop_button(served: Served, pieces: int) -> None:
    """A front end closes the stream; the next message of the chat is answered at once."""
    long = {"model": MODEL, "messages": CHAT, "stream": True, "ignore_eos": True, "max_tokens": 900}
    for _ in range(3):
        with httpx2.stream("POST", f"{served.url}/v1/chat/completions", json=long) as stream:
            lines = (line for line in stream.iter_lines() if line)
            for _ in range(pieces):
                next(lines)
    assert served.idle()
    found = served.post("/v1/chat/completions", {"model": MODEL, "messages": CHAT})
    assert found.status_code == 200
