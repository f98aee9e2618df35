"""`/v1/chat/completions`, as the official client uses it."""

from __future__ import annotations

import openai
import pytest

from served import CHAT, MODEL, Served


def test_the_text_is_the_pairs(client: openai.OpenAI, served: Served) -> None:
    mine = served.pair.generate(CHAT, max_new_tokens=40)
    theirs = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=40, temperature=0
    )
    message = theirs.choices[0].message
    assert (message.role, message.content) == ("assistant", mine.text)
    assert theirs.choices[0].finish_reason == "stop"


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "messages": CHAT, "max_completion_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**request)
    pieces = [*client.chat.completions.create(**request, stream=True)]
    assert pieces[0].choices[0].delta.role == "assistant"
    said = [piece.choices[0].delta.content or "" for piece in pieces]
    assert "".join(said) == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_an_answer_is_as_long_as_it_is(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=0)
    assert found.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"]}]},
        {"role": "user", "content": CHAT[0]["content"], "name": "ann"},
        {"role": "user", "content": CHAT[0]["content"], "tool_calls": None},
    ],
)
def test_forms_of_a_message(client: openai.OpenAI, served: Served, message) -> None:
    found = client.chat.completions.create(
        model=MODEL, messages=[message], max_tokens=40, temperature=0
    )
    assert found.choices[0].message.content == served.pair.generate(CHAT).text


def test_a_conversation(client: openai.OpenAI, served: Served) -> None:
    first = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=40, temperature=0)
    answer = first.choices[0].message
    longer = [*CHAT, {"role": "assistant", "content": answer.content}, *CHAT]
    second = client.chat.completions.create(
        model=MODEL, messages=longer, max_tokens=40, temperature=0
    )
    assert second.choices[0].message.content == served.pair.generate(longer).text
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage is not None
    # The first turn and its answer are in the cache: what is read anew is less than a page more
    # than what is new.
    read = second.usage.prompt_tokens - (second.usage.prompt_tokens_details.cached_tokens or 0)
    new = second.usage.prompt_tokens - first.usage.total_tokens
    assert read <= new + 16


def test_the_final_message_goes_on(client: openai.OpenAI) -> None:
    begun = [*CHAT, {"role": "assistant", "content": "Pens in"}]
    found = client.chat.completions.create(
        model=MODEL,
        messages=begun,
        max_tokens=40,
        temperature=0,
        extra_body={"continue_final_message": True},
    )
    assert (found.choices[0].message.content or "").startswith(" boxes")


def test_logprobs(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "messages": CHAT, "max_tokens": 40, "temperature": 0}
    found = client.chat.completions.create(**request, logprobs=True, top_logprobs=2)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs.content)
    assert all(
        entry.logprob == pytest.approx(entry.top_logprobs[0].logprob) for entry in logprobs.content
    )  # greedy text
    tokens: list[str] = []
    for piece in client.chat.completions.create(**request, logprobs=True, stream=True):
        if (part := piece.choices[0].logprobs) is not None:
            tokens += [entry.token for entry in part.content or []]
    assert tokens == [entry.token for entry in logprobs.content]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"enable_thinking": False}, "enable_thinking"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"tools": []}, "tools"),
    ],
)
def test_arguments_of_the_template(client: openai.OpenAI, arguments, word: str) -> None:
    with pytest.raises(openai.BadRequestError, match=word):
        client.chat.completions.create(
            model=MODEL, messages=CHAT, extra_body={"chat_template_kwargs": arguments}
        )
