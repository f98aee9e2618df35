"""What may be handed in as prompts, and what becomes of prompts that are none."""

import asyncio

import numpy as np
import pytest
import torch

from families import save_pair, tokenizer
from stet.core.errors import OptionError, StetError
from stet.load import load_pair
from stet.requests.chat import Rendered
from stet.requests.inputs import prompt_of, prompts_of

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m['role'] == 'system' and not allow_system %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m['role'][0] + ':' + m['content'] + '.' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "how many"}]
MOST = 60


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = save_pair(tmp_path_factory.mktemp("inputs"))
    for folder in folders.values():
        tok = tokenizer()
        tok.add_special_tokens({"bos_token": "<s>"})
        tok.chat_template = TEMPLATE
        tok.save_pretrained(folder)
    return load_pair(**folders, max_batch=4, max_length=MOST)


def ids(pair, text):
    return pair.tokenizer(text)["input_ids"]


def test_a_flat_list_of_ids_is_one_prompt(pair):
    wanted = pair.generate("how many", max_new_tokens=6)
    tokens = ids(pair, "how many")
    for given in (
        tokens,
        tuple(tokens),
        np.array(tokens),
        np.array(tokens, dtype=np.uint8),
        torch.tensor(tokens),
        [np.int64(t) for t in tokens],
        list(torch.tensor(tokens)),
    ):
        alone = pair.generate(given, max_new_tokens=6)
        assert alone.token_ids == wanted.token_ids
        (listed,) = pair.generate([given], max_new_tokens=6)
        assert listed.token_ids == wanted.token_ids
        assert [c.result for c in pair.stream(given, max_new_tokens=6)][-1].text == wanted.text
    assert asyncio.run(pair.agenerate(tokens, max_new_tokens=6)).token_ids == wanted.token_ids


def test_a_list_of_messages_is_a_chat(pair):
    rendered = pair.render(CHAT)
    assert pair.tokenizer.decode(rendered) == "<s>u:how many.a:"
    wanted = pair.generate(rendered, max_new_tokens=6)
    assert wanted.prompt == "<s>u:how many.a:"
    assert pair.generate(CHAT, max_new_tokens=6).token_ids == wanted.token_ids
    assert pair.generate(tuple(CHAT), max_new_tokens=6).token_ids == wanted.token_ids
    several = pair.generate([CHAT, "how many", ids(pair, "how")], max_new_tokens=6)
    assert [r.prompt for r in several] == [wanted.prompt, "how many", "how"]
    assert several[0].token_ids == wanted.token_ids


def test_the_trace_says_which_template_made_a_prompt(pair):
    rendered = pair.render(CHAT, allow_system=True)
    chat = pair.generate(rendered, max_new_tokens=2).trace.settings.chat
    assert chat["arguments"] == {"allow_system": True}
    assert len(chat["sha256"]) == 64
    assert pair.generate("how many", max_new_tokens=2).trace.settings.chat is None
    implicit = pair.generate(CHAT, max_new_tokens=2).trace.settings.chat
    assert implicit == {"sha256": chat["sha256"], "arguments": {}}


def test_a_rendered_text_gets_no_second_beginning(pair):
    backend = pair.tokenizer.backend_tokenizer
    from tokenizers.processors import TemplateProcessing

    before = backend.post_processor
    begin = pair.tokenizer.bos_token_id
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    try:
        assert ids(pair, "<s>ab")[:2] == [begin, begin]  # as transformers would
        assert pair._prompts.read("<s>ab", "target") == [begin, *ids(pair, "ab")[1:]]
        assert pair._prompts.read("ab", "target") == ids(pair, "ab")
        # Two that were asked for stay two.
        assert pair._prompts.read("<s><s>a", "target")[:3].count(begin) == 2
        assert list(pair.render(CHAT)).count(begin) == 1
    finally:
        backend.post_processor = before


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "Nothing (None) is no prompt"),
        (5, "5 (int) is no prompt"),
        (2.5, "2.5 (float) is no prompt"),
        (b"text", "in bytes"),
        ({"role": "user", "content": "a"}, "A single message is no prompt"),
        ({"input_ids": [1, 2]}, "its input_ids"),
        ({"a", "b"}, "is no prompt"),
        (np.zeros((2, 3), dtype=int), "An array of 2 dimensions"),
        (torch.zeros((2, 3), dtype=torch.long), "An array of 2 dimensions"),
        (torch.tensor(3), "An array of 0 dimensions"),
        (np.array([0.5, 1.5]), "holds 0.5 (float)"),
        ([True, False], "holds True (bool)"),
        ([1.5, 2.5], "holds 1.5 (float)"),
        ([None], "holds nothing (None)"),
        ([1, 2, "text"], "holds 1 (int) and also a text"),
        ([1, None], "holds 1 (int) and also nothing"),
        ([CHAT[0], "text"], "holds a message and also a text"),
        (["text", CHAT[0]], "holds a text and also a message"),
        ([object], "a prompt is a text, a list of token ids, or a list of messages"),
    ],
)
def test_what_is_no_prompt_gets_a_sentence_before_anything_runs(pair, given, sentence):
    for call in (pair.generate, lambda g: asyncio.run(pair.agenerate(g))):
        with pytest.raises(OptionError) as error:
            call(given)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)
    assert not pair.engine.busy


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "Nothing (None) is no prompt"),
        ("", "A prompt is empty"),
        ([], "A prompt is empty"),
        ([9999], "Token 9999 is not in the vocabulary"),
        ([-1], "Token -1 is not in the vocabulary"),
        ([2**40], f"Token {2**40} is not in the vocabulary"),
        ([2**70], f"Token {2**70} is not in the vocabulary"),
        ([1, "a"], "list holds a text"),
        ("a\ud800b", "half a character"),
        ([{"content": "a"}], "has no role"),
        ([{"role": 3, "content": "a"}], "has no role"),
        ([{"role": "user"}], "has no content"),
        ([{"role": "user", "content": 3}], "3 (int) for content"),
        ([{"role": "system", "content": "Be brief"}, *CHAT], "System role not supported"),
        ("a" * MOST, f"A prompt of {MOST} tokens leaves no room"),
        ([[1, 2], [3]], "list holds [1, 2]"),
    ],
)
def test_in_a_list_only_the_faulty_prompt_fails(pair, given, sentence):
    wanted = [r.token_ids for r in pair.generate(["how", "many"], max_new_tokens=5)]
    seen = []
    results = pair.generate(
        ["how", given, "many"], max_new_tokens=5, on_progress=lambda r: seen.append(r)
    )
    assert [results[0].token_ids, results[2].token_ids] == wanted
    assert [r.error for r in (results[0], results[2])] == [None, None]
    failed = results[1]
    assert failed.finish_reason == "error"
    assert failed.error.startswith("Prompt 2 of 3")
    assert sentence in failed.error
    assert "\n" not in failed.error
    assert failed.text == ""
    assert failed.token_ids == []
    assert failed.trace.to_json()
    assert len(seen) == 3
    # By itself it raises.
    with pytest.raises(StetError) as error:
        list(pair.stream(given, max_new_tokens=5))
    assert sentence in str(error.value)
    assert not pair.engine.busy
    assert [r.rows_in_use for r in pair.engine.runners.values()] == [0, 0]


def test_the_default_length_shrinks_to_what_fits_and_a_wish_does_not(pair):
    prompt = "a" * (MOST - 7)
    found = pair.generate(prompt, ignore_eos=True)
    assert len(found.token_ids) == 7
    assert len(pair.generate(prompt, ignore_eos=True, max_new_tokens=None).token_ids) == 7
    fitted = pair.generate(prompt, ignore_eos=True, max_new_tokens=50, fit=True)
    assert len(fitted.token_ids) == 7
    with pytest.raises(OptionError, match="lower max_new_tokens to 7"):
        pair.generate(prompt, max_new_tokens=8)
    assert len(pair.generate(prompt, max_new_tokens=7, ignore_eos=True).token_ids) == 7


def test_advice_for_a_prompt_that_is_too_long_is_advice_that_works(pair):
    with pytest.raises(OptionError, match=r"load the pair with a max_length of 61 or more"):
        pair.generate("a" * MOST)
    # The models themselves read 512 tokens: there a longer pair is no way out.
    with pytest.raises(OptionError, match=rf"shorten it to {MOST - 1} or less\.$"):
        pair.generate("a" * 600)
    with pytest.raises(OptionError, match=r"lower max_new_tokens to 50\.$"):
        pair.generate("a" * 10, max_new_tokens=510)


def test_an_empty_list_holds_no_prompts(pair):
    assert pair.generate([]) == []


def test_generators_and_series_of_prompts(pair):
    found = pair.generate((p for p in ("how", "many")), max_new_tokens=2)
    assert [r.prompt for r in found] == ["how", "many"]
    found = pair.generate(np.array(["how", "many"]), max_new_tokens=2)
    assert [r.prompt for r in found] == ["how", "many"]
    found = pair.generate([iter(ids(pair, "how")), iter(CHAT), "many"], max_new_tokens=2)
    assert [r.prompt for r in found] == ["how", "<s>u:how many.a:", "many"]


def test_template_arguments_reach_the_template_or_are_refused(pair):
    system = [{"role": "system", "content": "brief"}, *CHAT]
    assert pair.tokenizer.decode(pair.render(system, allow_system=True)) == (
        "<s>s:brief.u:how many.a:"
    )
    with pytest.raises(OptionError, match="put the system prompt at the beginning of the user"):
        pair.render(system)
    with pytest.raises(OptionError, match="does not use 'allow_sistem'"):
        pair.render(CHAT, allow_sistem=True)
    with pytest.raises(OptionError, match="tokenize is no argument"):
        pair.render(CHAT, tokenize=True)
    prefilled = [*CHAT, {"role": "assistant", "content": "six"}]
    text = pair.tokenizer.decode(pair.render(prefilled, continue_final_message=True))
    assert text == "<s>u:how many.a:six"
    own = pair.render(CHAT, chat_template="{{ messages[0].content }}!")
    assert pair.tokenizer.decode(own) == "how many!"


def test_a_template_that_passes_over_the_system_prompt_does_not_lose_it(pair):
    system = [{"role": "system", "content": "brief"}, *CHAT]
    with pytest.raises(OptionError, match="leaves the system prompt out"):
        pair.render(system, chat_template="{{ messages[-1].content }}")


@pytest.mark.parametrize("messages", [[], [None], ["a"], [[{"role": "user", "content": "a"}]]])
def test_chats_that_are_none(pair, messages):
    with pytest.raises(OptionError):
        pair.render(messages)


def test_what_stands_for_itself_is_told_apart_without_reading_it():
    assert prompts_of("ab") == (["ab"], True)
    assert prompts_of(["ab"]) == (["ab"], False)
    assert prompts_of([[1, 2], "a"]) == ([[1, 2], "a"], False)
    assert prompts_of(range(3)) == ([[0, 1, 2]], True)
    assert prompt_of(range(3)) == [0, 1, 2]


def test_a_rendered_chat_is_one_prompt_even_if_it_is_empty():
    """A template may leave nothing of a chat; a list without prompts would be no mistake."""
    empty = Rendered([], None, {})
    assert prompts_of(empty) == ([empty], True)
