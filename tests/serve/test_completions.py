"""`/v1/completions`, as the official client and curl use it."""

from __future__ import annotations

import asyncio
import json
import math

import openai
import pytest

from served import MODEL, PROMPT, Served

OTHER = "Problem: Tom has 4 bags of 7 nuts and eats 3. How many nuts?\nSolution:\n"


def test_the_text_is_the_pairs(client: openai.OpenAI, served: Served) -> None:
    mine = served.pair.generate(PROMPT, max_new_tokens=40)
    theirs = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0)
    assert theirs.choices[0].text == mine.text
    assert theirs.choices[0].finish_reason == mine.finish_reason == "stop"
    assert theirs.usage is not None
    assert theirs.usage.completion_tokens == len(mine.token_ids)
    assert theirs.usage.prompt_tokens == mine.prompt_tokens
    assert theirs.object == "text_completion"


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**request)
    pieces = [*client.completions.create(**request, stream=True)]
    assert "".join(p.choices[0].text for p in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert all(p.choices[0].finish_reason is None for p in pieces[:-1])
    assert len(pieces) > 2
    assert all(p.id == pieces[0].id for p in pieces)


def test_usage_in_a_stream(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**request)
    *pieces, last = client.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert whole.usage is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert all(piece.usage is None for piece in pieces)


def test_usage_in_every_piece(client: openai.OpenAI) -> None:
    """As load generators ask for it."""
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    options = {"include_usage": True, "continuous_usage_stats": True}
    pieces = [*client.completions.create(**request, stream=True, stream_options=options)]
    counts = [piece.usage.completion_tokens for piece in pieces if piece.usage]
    assert len(counts) == len(pieces)
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > counts[0] > 0


def test_the_asynchronous_client(served: Served) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
            stream = await client.completions.create(
                model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0, stream=True
            )
            return [piece.choices[0].text async for piece in stream]

    assert "".join(asyncio.run(ask())) == served.pair.generate(PROMPT, max_new_tokens=40).text


def test_several_prompts_and_choices(client: openai.OpenAI, served: Served) -> None:
    found = client.completions.create(
        model=MODEL, prompt=[PROMPT, OTHER], n=3, max_tokens=30, temperature=0
    )
    texts = [served.pair.generate(p, max_new_tokens=30).text for p in (PROMPT, OTHER)]
    assert [c.text for c in found.choices] == [texts[0]] * 3 + [texts[1]] * 3
    assert [c.index for c in found.choices] == [*range(6)]
    assert found.usage is not None
    lengths = [len(served.pair.encode(p)) for p in (PROMPT, OTHER)]
    assert found.usage.prompt_tokens == sum(lengths)


def test_several_choices_in_a_stream(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "n": 3, "max_tokens": 30, "seed": 5}
    whole = client.completions.create(**request)
    texts = ["", "", ""]
    for piece in client.completions.create(**request, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert len({*texts}) > 1  # each has randomness of its own


def test_prompts_as_tokens(client: openai.OpenAI, served: Served) -> None:
    ids = served.pair.encode(PROMPT)
    texts = [
        client.completions.create(model=MODEL, prompt=p, max_tokens=40, temperature=0).choices
        for p in (PROMPT, ids, [ids, ids])
    ]
    assert [c.text for choices in texts for c in choices] == [texts[0][0].text] * 4


def test_sixteen_tokens_where_nothing_is_said(client: openai.OpenAI) -> None:
    found = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0)
    assert found.usage is not None
    assert found.usage.completion_tokens == 16
    assert found.choices[0].finish_reason == "length"


def test_a_seed_repeats_a_text(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 2}
        return client.completions.create(**request, seed=seed).choices[0].text

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_temperature_is_one_where_nothing_is_said(client: openai.OpenAI, served: Served) -> None:
    mine = served.pair.generate(PROMPT, temperature=1.0, seed=3, max_new_tokens=30)
    theirs = client.completions.create(model=MODEL, prompt=PROMPT, seed=3, max_tokens=30)
    assert theirs.choices[0].text == mine.text


@pytest.mark.parametrize("stop", ["\n", ["boxes", "\n"], "<|end|>"])
def test_stop_strings(client: openai.OpenAI, served: Served, stop) -> None:
    mine = served.pair.generate(PROMPT, stop=stop, max_new_tokens=40)
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0, "stop": stop}
    whole = client.completions.create(**request)
    assert whole.choices[0].text == mine.text
    assert whole.choices[0].finish_reason == "stop"
    pieces = [*client.completions.create(**request, stream=True)]
    assert "".join(p.choices[0].text for p in pieces) == mine.text
    # Which of them it was, and that it was none: clients cannot tell it from the text.
    found = [whole.choices[0].stop_reason, pieces[-1].choices[0].stop_reason]
    assert found == [mine.stop_string] * 2
    # The token of that name is the model's own end.
    assert (mine.stop_string or "<|end|>") in stop
    ended = client.completions.create(**request | {"stop": None, "max_tokens": 100}).choices[0]
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)


def test_logit_bias_and_penalties(client: openai.OpenAI, served: Served) -> None:
    first = served.pair.generate(PROMPT, max_new_tokens=1).token_ids[0]
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    plain = client.completions.create(**request).choices[0].text
    biased = client.completions.create(**request, logit_bias={str(first): -100}).choices[0].text
    assert biased[:1] != plain[:1]
    sampled = {**request, "temperature": 1.5, "seed": 7, "max_tokens": 60}
    free = client.completions.create(**sampled).choices[0].text
    penalised = client.completions.create(**sampled, presence_penalty=2, frequency_penalty=2)
    mine = served.pair.generate(
        PROMPT,
        temperature=1.5,
        seed=7,
        max_new_tokens=60,
        presence_penalty=2.0,
        frequency_penalty=2.0,
    )
    assert penalised.choices[0].text == mine.text != free


def test_logprobs(client: openai.OpenAI, served: Served) -> None:
    mine = served.pair.generate(PROMPT, logprobs=3, max_new_tokens=40)
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0, "logprobs": 3}
    found = client.completions.create(**request).choices[0].logprobs
    assert found is not None
    assert found.tokens == [token.text for token in mine.tokens]
    assert found.token_logprobs is not None
    for value, token in zip(found.token_logprobs, mine.tokens, strict=True):
        assert token.p_target is not None
        assert math.isclose(math.exp(value), token.p_target, rel_tol=1e-5)
    assert found.top_logprobs is not None
    assert all(len(best) == 3 for best in found.top_logprobs)
    assert found.text_offset is not None
    assert found.text_offset[:2] == [0, len(found.tokens[0])]
    tokens: list[str] = []
    for piece in client.completions.create(**request, stream=True):
        if (logprobs := piece.choices[0].logprobs) is not None:
            tokens += logprobs.tokens or []
    assert tokens == found.tokens


def test_a_prompt_is_echoed_with_its_logprobs(client: openai.OpenAI, served: Served) -> None:
    """As lm-evaluation-harness asks for the likelihood of a text."""
    found = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    reading = served.pair.read(PROMPT, top_logprobs=1)
    choice = found.choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == reading.tokens
    assert choice.logprobs.token_logprobs == pytest.approx(reading.logprobs, abs=1e-5)
    assert choice.logprobs.token_logprobs[0] is None
    assert found.usage is not None
    assert found.usage.completion_tokens == 0


def test_a_prompt_is_echoed_before_its_answer(client: openai.OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    plain = client.completions.create(**request, logprobs=1).choices[0]
    echoed = client.completions.create(**request, logprobs=1, echo=True).choices[0]
    assert echoed.text == PROMPT + plain.text
    assert plain.logprobs is not None
    assert echoed.logprobs is not None
    count = len(plain.logprobs.tokens or [])
    assert (echoed.logprobs.tokens or [])[-count:] == plain.logprobs.tokens
    offsets = echoed.logprobs.text_offset or []
    assert offsets[-count] == len(PROMPT)
    pieces = [*client.completions.create(**request, echo=True, stream=True)]
    assert "".join(p.choices[0].text for p in pieces) == echoed.text


def test_prompt_logprobs(served: Served) -> None:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1, "prompt_logprobs": 2}
    found = served.post("/v1/completions", body).json()["choices"][0]["prompt_logprobs"]
    reading = served.pair.read(PROMPT, top_logprobs=2)
    assert found[0] is None
    for place, entries in enumerate(found[1:], 1):
        own = entries[str(reading.token_ids[place])]
        assert own["logprob"] == pytest.approx(reading.logprobs[place], abs=1e-5)
        assert own["rank"] == reading.ranks[place]
        # Whoever sent a text knows no ids: the first is the token itself.
        assert next(iter(entries.values())) == own
        assert len(entries) in (2, 3)


def test_token_ids_and_timings(served: Served) -> None:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    more = {"return_token_ids": True, "timings_per_token": True}
    found = served.post("/v1/completions", body | more).json()
    assert found["choices"][0]["token_ids"] == served.pair.generate(PROMPT).token_ids
    timings = found["timings"]
    assert timings["predicted_n"] == found["usage"]["completion_tokens"]
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 0


def test_events_are_what_clients_parse(served: Served) -> None:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 20, "stream": True}
    found = served.post("/v1/completions", body)
    assert found.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in found.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["object"] == "text_completion" for line in lines[:-1])
