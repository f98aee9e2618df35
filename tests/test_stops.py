"""Stop strings that hold special tokens, under every kind of decoding."""

import asyncio

import pytest

from families import WORDS, save_pair, tokenizer
from stet.load import load_pair
from stet.policies import SpecGuard

PROMPT = "how many"
SETTINGS = {"max_new_tokens": 60, "ignore_eos": True}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A pair for which the token that comes most often but one is special."""
    place = tmp_path_factory.mktemp("stops")
    plain = load_pair(**save_pair(place), max_length=200)
    written = plain.generate(PROMPT, **SETTINGS).token_ids
    chosen = next(
        t
        for t in written[5:]
        if t not in written[:5] and t not in plain.tokenizer(PROMPT).input_ids
    )
    for role in ("target", "draft"):
        words = [*WORDS]
        words[chosen] = "<|turn|>"
        made = tokenizer(words)
        made.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
        assert made.convert_tokens_to_ids("<|turn|>") == chosen
        made.save_pretrained(place / role)
    found = load_pair(place / "target", place / "draft", max_length=200)
    found.chosen = chosen
    return found


def ways(pair, **options):
    """A request in all ways of asking for it."""
    yield pair.generate(PROMPT, **SETTINGS, **options)
    yield pair.generate([PROMPT, "a"], **SETTINGS, **options)[0]
    chunks = list(pair.stream(PROMPT, **SETTINGS, **options))
    assert "".join(c.text for c in chunks) == chunks[-1].result.text
    yield chunks[-1].result

    async def streamed():
        return [c async for c in pair.astream(PROMPT, **SETTINGS, **options)][-1].result

    yield asyncio.run(streamed())


@pytest.mark.parametrize("policy", ["exact", "target", "block", "draft", SpecGuard(threshold=0.5)])
def test_a_special_token_as_stop_string_ends_the_answer(pair, policy):
    for result in ways(pair, policy=policy, stop="<|turn|>"):
        if pair.chosen in (whole := pair.generate(PROMPT, policy, **SETTINGS).token_ids):
            assert result.finish_reason == "stop"
            assert result.token_ids[-1] == pair.chosen
            assert result.token_ids.count(pair.chosen) == 1
            end = whole.index(pair.chosen)
            assert result.text == pair.tokenizer.decode(whole[:end], skip_special_tokens=True)
        assert "turn" not in result.text
    assert policy == "draft" or pair.chosen in whole


@pytest.mark.parametrize("policy", ["exact", "target", "block", SpecGuard(threshold=0.5)])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("after", [0, 2])
def test_one_among_letters_is_looked_for_where_the_token_is(pair, policy, before, after):
    whole = pair.generate(PROMPT, policy, **SETTINGS).token_ids
    at = whole.index(pair.chosen)
    stop = pair.tokenizer.decode(whole[at - before : at + 1 + after])
    assert "<|turn|>" in stop
    visible = pair.tokenizer.decode(whole[: at - before], skip_special_tokens=True)
    for result in ways(pair, policy=policy, stop=["never", stop]):
        assert result.finish_reason == "stop"
        assert result.text == visible
        assert stop in pair.tokenizer.decode(result.token_ids)
        assert stop not in pair.tokenizer.decode(result.token_ids[:-1])


def test_the_name_in_letters_is_that_text(pair):
    # A prompt may spell it out; the answer here has no such letters.
    found = pair.generate(PROMPT, stop=["<|tur"], **SETTINGS)
    assert found.finish_reason == "length"


def test_an_end_that_is_ignored_ends_where_it_was_asked_for_by_name(pair):
    end = pair.tokenizer.eos_token
    assert end == "</s>"
    eos = pair.tokenizer.eos_token_id
    bias = {eos: 5.0}
    free = pair.generate(PROMPT, logit_bias=bias, **SETTINGS)
    assert eos in free.token_ids[:-1]
    found = pair.generate(PROMPT, logit_bias=bias, stop=end, **SETTINGS)
    assert found.finish_reason == "stop"
    assert found.token_ids == free.token_ids[: free.token_ids.index(eos) + 1]


def test_the_harness_stops_at_special_tokens_too(pair):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from stet.integrations.lm_eval import StetLM

    whole = pair.generate(PROMPT, max_new_tokens=60).token_ids
    at = whole.index(pair.chosen)
    wanted = pair.tokenizer.decode(whole[:at], skip_special_tokens=True)
    after = pair.tokenizer.decode(whole[at : at + 2])
    for until in ("<|turn|>", after):
        asked = [
            Instance("generate_until", {}, (PROMPT, {"until": [until], "max_gen_toks": 60}), 0)
        ]
        assert StetLM(pair=pair).generate_until(asked, disable_tqdm=True) == [wanted]
