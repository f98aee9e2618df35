"""What a request cannot have is refused by name; what asks for nothing is taken."""

from __future__ import annotations

import json

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from served import CHAT, MODEL, PROMPT, Served, serving
from stet.serve.settings import ServeSettings
from stet.serve.wire.chat import ChatBody
from stet.serve.wire.completions import CompletionBody
from stet.serve.wire.fields import UNSUPPORTED

COMPLETION = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
CHATTING = {"model": MODEL, "messages": CHAT, "max_tokens": 4, "temperature": 0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "text", "strict": True}),
        ("functions", [{"name": "f"}]),
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("best_of", 5),
        ("suffix", "the end"),
        ("min_tokens", 5),
        ("use_beam_search", True),
        ("guided_json", {}),
        ("reasoning_effort", "high"),
        ("parallel_tool_calls", 1),
        ("include_stop_str_in_output", True),
    ],
)
def test_what_is_not_there_is_refused_by_name(served: Served, field: str, value: object) -> None:
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHATTING)):
        found = served.post(path, body | {field: value})
        assert found.status_code == 400
        error = found.json()["error"]
        assert error["param"] == field
        assert field in error["message"]
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "idle",
    [
        dict.fromkeys(UNSUPPORTED),
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        {"best_of": 1, "suffix": "", "user": "ann", "metadata": {"a": "b"}, "store": False},
        {"n": 2, "best_of": 2},
        {"stop": None, "logit_bias": None, "logprobs": None, "seed": None, "stream": None},
        {"stop": [], "logit_bias": {}, "stop_token_ids": [], "speculation": None},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "top_p": 1, "top_k": -1},
        {"service_tier": "auto", "parallel_tool_calls": True, "n": 1},
    ],
)
def test_what_asks_for_nothing_is_taken(served: Served, idle: dict) -> None:
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHATTING)):
        found = served.post(path, body | idle)
        assert found.status_code == 200, found.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 10**9}, "lower max_tokens to"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 10**6}, "sequences"),
        ({"stop": [""]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias names token 999999"),
        ({"stop_token_ids": [10**8]}, "stop_token_ids names token"),
        ({"model": "gpt-4"}, "no model 'gpt-4'"),
        ({"model": None}, "model is missing"),
        ({"stream_options": {"include_usage": True}}, "stream=true"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"nonsense": 1}, "There is no field nonsense"),
        ({"x" * 500: 1}, "There is no field xxx"),
    ],
)
def test_wrong_values(served: Served, change: dict, words: str) -> None:
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHATTING)):
        found = served.post(path, body | change)
        assert 400 <= found.status_code < 500, found.text
        error = found.json()["error"]
        assert words in error["message"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert len(error["message"]) < 600


@pytest.mark.parametrize(
    "prompt", [[], "", [[]], [1, "a"], [True], [-1], [10**9], {"a": 1}, 5, [["a"]], "x " * 5000]
)
def test_wrong_prompts(served: Served, prompt: object) -> None:
    found = served.post("/v1/completions", COMPLETION | {"prompt": prompt})
    assert found.status_code == 400, found.text
    assert found.json()["error"]["message"]


def test_a_long_prompt_has_a_code(served: Served) -> None:
    found = served.post("/v1/completions", COMPLETION | {"prompt": "word " * 2000})
    assert found.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}],
        [{"role": "user", "content": None}],
        [{"role": "wizard", "content": "a"}],
        [{"role": "user", "content": "a", "colour": "red"}],
    ],
)
def test_wrong_messages(served: Served, messages: object) -> None:
    found = served.post("/v1/chat/completions", CHATTING | {"messages": messages})
    assert found.status_code == 400, found.text
    assert "messages" in (found.json()["error"]["param"] or "")


def test_a_chat_of_which_the_template_leaves_nothing(served: Served) -> None:
    messages = [{"role": "system", "content": ""}]
    found = served.post("/v1/chat/completions", CHATTING | {"messages": messages})
    assert found.status_code == 400, found.text
    assert "empty" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [{"repetition_penalty": 5e-324}, {"logit_bias": {"5": 1e308}}, {"logit_bias": {"5": -101}}],
)
def test_what_no_logit_could_bear(served: Served, change: dict) -> None:
    assert served.post("/v1/completions", COMPLETION | change).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"text"', 400),
        (b"\xff\xfe{}", 400),
        (b'{"model": "small", "prompt": "\xff"}', 400),
        (b'{"model": "small", "prompt": "\\ud800"}', 400),
        (b'{"model": "small", "prompt": "a", "temperature": NaN}', 400),
        (b'{"model": "small", "prompt": "a", "temperature": 1e999}', 400),
        (b'{"model": "small", "prompt": "a", "seed": ' + b"9" * 6000 + b"}", 400),
        (b'{"model": "small", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"model": "small", "speculation": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, 400),
    ],
)
def test_hostile_bodies(served: Served, body: bytes, status: int) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        found = httpx2.post(
            f"{served.url}{path}", content=body, headers={"content-type": "application/json"}
        )
        assert found.status_code == status, found.text
        assert found.json()["error"]["message"]


def test_a_body_that_is_no_json(served: Served) -> None:
    """Web pages may send plain text anywhere without asking."""
    found = httpx2.post(
        f"{served.url}/v1/completions",
        content=json.dumps(COMPLETION).encode(),
        headers={"content-type": "text/plain"},
    )
    assert found.status_code == 415


def test_large_bodies(pair) -> None:
    with serving(pair, ServeSettings(model=MODEL, max_body=1000)) as served:
        large = COMPLETION | {"prompt": "a" * 2000}
        assert served.post("/v1/completions", large).status_code == 413
        text = json.dumps(large).encode()

        def pieces():
            for at in range(0, len(text), 100):
                yield text[at : at + 100]

        found = httpx2.post(  # without a Content-Length
            f"{served.url}/v1/completions",
            content=pieces(),
            headers={"content-type": "application/json"},
        )
        assert found.status_code == 413
        assert found.json()["error"]["code"] == "body_too_large"
        assert served.post("/v1/completions", COMPLETION).status_code == 200


def test_the_operators_bounds(pair) -> None:
    bounds = ServeSettings(model=MODEL, max_prompt=30, max_output=10, max_choices=3)
    with serving(pair, bounds) as served:
        assert served.post("/v1/completions", COMPLETION).status_code == 200
        for change in ({"prompt": PROMPT * 2}, {"max_tokens": 11}, {"n": 4}, {"prompt": ["a"] * 4}):
            assert served.post("/v1/completions", COMPLETION | change).status_code == 400
        chat = served.post("/v1/chat/completions", CHATTING | {"max_tokens": None}).json()
        assert chat["usage"]["completion_tokens"] == 10


def test_other_paths_have_the_same_errors(served: Served) -> None:
    for found in (served.get("/v1/nothing"), served.get("/v1/completions")):
        assert found.status_code in (404, 405)
        assert found.json()["error"].keys() == {"message", "type", "param", "code"}


def test_special_tokens_in_a_users_text_end_nothing(served: Served) -> None:
    """What a user says is text, also where it spells a special token."""
    said = [{"role": "user", "content": "What is <|end|> and <|pad|>? 3 + 4?"}]
    found = served.post("/v1/chat/completions", CHATTING | {"messages": said})
    assert found.status_code == 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = sorted({*CompletionBody.model_fields, *ChatBody.model_fields, *UNSUPPORTED})


@settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    st.sampled_from(["/v1/completions", "/v1/chat/completions"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
)
def test_any_values_of_any_fields(served: Served, path: str, change: dict) -> None:
    base = COMPLETION if path == "/v1/completions" else CHATTING
    body = base | change
    found = served.post(path, body)
    assert found.status_code < 500, (body, found.text)
    if found.status_code >= 400:
        assert found.json()["error"]["message"]
