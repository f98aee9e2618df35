"""How servers are asked about texts, and what they answer: by answers that are written down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from stet.remote.abilities import PROBE, Abilities
from stet.remote.completion import Completion, Spoken
from stet.remote.connections import RefusedError
from stet.remote.reading import FORMS, Read, ReadingForm, last_tokens

VLLM, OPENAI = FORMS[0], ReadingForm("echo", ids=True, written=0)
IDS = [5, 7, 9]


def listed(*entries: Any) -> dict[str, Any]:
    return {"choices": [{"text": "", "prompt_logprobs": [None, *entries]}]}


def entry(**values: float) -> dict[str, Any]:
    """An entry of `prompt_logprobs`: token t7 has the id 7."""
    return {
        name[1:]: {"logprob": value, "rank": 1, "decoded_token": f"<{name}>"}
        for name, value in values.items()
    }


def echoed(tokens: list[str], values: list[Any], tops: list[Any] | None) -> dict[str, Any]:
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
    return {"choices": [{"text": "".join(tokens), "logprobs": logprobs}]}


# What is asked, and what is answered


def test_bodies():
    assert VLLM.body(IDS) == {
        "prompt": IDS,
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 2,
    }
    assert OPENAI.body("a") == {
        "prompt": "a",
        "max_tokens": 0,
        "temperature": 0.0,
        "echo": True,
        "logprobs": 2,
    }


def test_prompt_logprobs_have_the_best_other_token():
    answer = listed(entry(t7=-0.5, t1=-1.5), entry(t9=-3.0, t1=-0.25, t2=-2.0))
    assert VLLM.parse(answer, IDS) == [
        Read("", None),
        Read("<t7>", -0.5, -1.5),
        Read("<t9>", -3.0, -0.25),
    ]
    # Sent as a text, the first of each entry is the token itself, whatever its id.
    assert VLLM.parse(answer, "text") == VLLM.parse(answer, IDS)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": [{"text": "x"}]},
        {"choices": [{"text": "x", "prompt_logprobs": None}]},
        listed(),
        listed(entry(t7=-0.5)),
        listed(entry(t7=-0.5), entry(t8=-0.5)),
        listed(entry(t7=-0.5), {"9": {"logprob": "much", "decoded_token": "x"}}),
        listed(entry(t7=-0.5), entry(t9=float("nan"), t1=-1.0)),
        listed(entry(t7=-0.5), {"9": {"logprob": -1.0}}),
        listed(entry(t7=-0.5), 3),
    ],
)
def test_prompt_logprobs_that_are_none(answer: Any):
    assert VLLM.parse(answer, IDS) is None


def test_an_echo_has_the_best_other_token():
    tops = [None, {"b": -0.5, "x": -1.0}, {"x": -0.25, "y": -2.0}]
    answer = echoed(["a", "b", "c"], [None, -0.5, -3.0], tops)
    found = [Read("a", None), Read("b", -0.5, -1.0), Read("c", -3.0, -0.25)]
    assert OPENAI.parse(answer, IDS) == found
    # What it had to write is left out.
    more = echoed(["a", "b", "c", "d"], [None, -0.5, -3.0, -1.0], [*tops, None])
    for form, prompt in (
        (ReadingForm("echo", ids=True, written=1), IDS),
        (ReadingForm("echo", ids=False, written=1), "abc"),
    ):
        assert form.parse(more, prompt) == found
    assert OPENAI.parse(answer, [*IDS, 11]) is None
    # It has only what it wrote: the echo was not heard of.
    assert OPENAI.parse(echoed(["d", "e", "f"], [-1.0] * 3, None), IDS) is None


def test_another_token_of_the_same_text_is_another_token():
    answer = echoed(["a", "\ufffd"], [None, -3.0], [None, {"\ufffd": -0.25, "x": -4.0}])
    assert OPENAI.parse(answer, IDS[:2]) == [Read("a", None), Read("\ufffd", -3.0, -0.25)]


def test_impossible_tokens_have_a_number_all_the_same():
    answer = listed(entry(t7=float("-inf"), t1=-1.5), entry(t9=-1.0, t1=float("-inf")))
    assert VLLM.parse(answer, IDS) == [
        Read("", None),
        Read("<t7>", -9999.0, -1.5),
        Read("<t9>", -1.0, -9999.0),
    ]


def reads(*texts: str) -> list[Read]:
    return [Read(texts[0], None), *(Read(text, -1.0, -2.0) for text in texts[1:])]


@pytest.mark.parametrize(
    ("texts", "step", "found"),
    [
        (("a", "\n", "b", " c"), "b c", ("b", " c")),
        (("a", "\n", "b", " c"), " c", (" c",)),
        (("a", "\n", "b", " c"), "\nb c", ("\n", "b", " c")),
        # It begins inside a token, ends inside one, or reads otherwise.
        (("a", "\nb", " c"), "b c", None),
        (("a", "\n", "b", " c\n"), "b c", None),
        (("a", "\n", "x", " c"), "b c", None),
        (("a", "b"), "aab", None),
        # The first token of all has no log-probability, and one may have no text.
        (("a", "b"), "ab", None),
        (("a", "\n", "", "b"), "b", ("b",)),
        (("a", "\n", "", "b"), "\nb", None),
        (("a", "b"), "", ()),
    ],
)
def test_a_step_is_the_last_tokens_of_a_text(
    texts: Sequence[str], step: str, found: Sequence[str] | None
):
    tokens = last_tokens(reads(*texts), step)
    assert (None if tokens is None else tuple(of.text for of in tokens)) == found


# What a server can do


class Asked:
    """Answers as a server would that knows some forms."""

    def __init__(self, *forms: ReadingForm, most: int = 0, texts: Any = str) -> None:
        self.forms, self.most, self.texts = forms, most, texts
        self.count = 0

    async def read(self, prompt: Any, form: ReadingForm) -> list[Read] | None:
        self.count += 1
        if form not in self.forms:
            raise RefusedError("no")
        if isinstance(prompt, str):
            return reads(*prompt)
        return reads(*(self.texts(token) for token in prompt))

    async def complete(
        self, prompt: Any, *, max_tokens: int, logprobs: int | None = None
    ) -> Completion:
        self.count += 1
        assert max_tokens == 1
        if (logprobs or 0) > self.most:
            raise RefusedError("too many")
        top = {str(i): -1.0 for i in range(logprobs or 0)}
        return Completion("x", "length", None, 1, None, [Spoken("x", -1.0, top)])


def encode(text: str) -> list[tuple[int, str]]:
    assert text == PROBE
    return [(i, str(i)) for i in range(5)]


@pytest.mark.parametrize("form", FORMS)
def test_the_first_form_that_a_server_knows_is_taken_and_kept(form: ReadingForm):
    asked, abilities = Asked(form), Abilities()

    async def find() -> list[ReadingForm | None]:
        both = [abilities.form(asked, encode) for _ in range(2)]
        return [*await asyncio.gather(*both), await abilities.form(asked, encode)]

    assert asyncio.run(find()) == [form] * 3
    assert asked.count == FORMS.index(form) + 1


def test_a_server_with_other_tokens_is_asked_with_texts():
    asked = Asked(*FORMS, texts=lambda token: f"{token}x")
    assert asyncio.run(Abilities().form(asked, encode)) == FORMS[1]
    # Some lose the spaces of tokens by themselves.
    asked = Asked(*FORMS, texts=lambda token: f" {token}")
    assert asyncio.run(Abilities().form(asked, encode)) == FORMS[0]


def test_a_server_that_reads_nothing():
    assert asyncio.run(Abilities().form(Asked(), encode)) is None


@pytest.mark.parametrize(("most", "listed"), [(20, 20), (19, 5), (5, 5), (4, 0), (0, 0)])
def test_how_many_tokens_a_server_lists(most: int, listed: int):
    assert asyncio.run(Abilities().listed(Asked(most=most))) == listed
