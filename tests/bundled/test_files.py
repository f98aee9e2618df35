"""The shipped folders: transformers loads them unaided, the tokenizer loses nothing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from stet.bundled import DRAFT, FAMILIES, TARGET, generate

pytestmark = pytest.mark.unit

FOLDERS = pytest.mark.parametrize("folder", [TARGET, DRAFT], ids=["target", "draft"])


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TARGET)


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_survives(tokenizer, text):
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["naïve  日本語\t🎉\r\n\n x ", "  12 345", "\n\n\n", " a\u00a0b"])
def test_awkward_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_stand_alone(tokenizer):
    for token in tokenizer.get_vocab():
        assert sum(c.isdigit() for c in token) == 0 or len(token) == 1
    assert tokenizer.tokenize("4096") == ["4", "0", "9", "6"]


def test_nothing_is_added(tokenizer):
    assert tokenizer("").input_ids == []
    assert tokenizer.bos_token is None
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_line_ends_are_always_the_same_token(tokenizer):
    """A step's end can be seen in the ids, without decoding."""
    for family in FAMILIES:
        for problem in generate(family, "test", 50):
            tokens = tokenizer.tokenize(problem.solution)
            assert tokens.count("Ċ") == problem.solution.count("\n")
            assert not any("Ċ" in token for token in tokens if token != "Ċ")


def test_problems_are_short(tokenizer):
    for family in FAMILIES:
        for problem in generate(family, "test", 200):
            assert len(tokenizer(problem.prompt + problem.solution).input_ids) <= 300


def test_a_prompt_and_its_solution_meet_at_a_token_border(tokenizer):
    for problem in generate("stories", "test", 50):
        whole = tokenizer(problem.prompt + problem.solution).input_ids
        parts = tokenizer(problem.prompt).input_ids + tokenizer(problem.solution).input_ids
        assert whole == parts


def test_chat_template_gives_the_prompt(tokenizer):
    problem = generate("stories", "test", 1)[0]
    talk = [{"role": "user", "content": problem.text}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == problem.prompt


@FOLDERS
def test_models_are_plain_llama_with_known_head_size(folder):
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.head_dim in (32, 64)
    assert config.hidden_size == config.head_dim * config.num_attention_heads
    assert config.max_position_embeddings >= 512


@FOLDERS
def test_weights_are_bfloat16(folder):
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(k).get_dtype() for k in weights.keys()} == {"BF16"}  # noqa: SIM118


@FOLDERS
def test_models_end_where_the_tokenizer_does(folder, tokenizer):
    settings_of = json.loads((folder / "generation_config.json").read_text())
    assert settings_of["eos_token_id"] == tokenizer.eos_token_id
    assert settings_of["pad_token_id"] == tokenizer.pad_token_id


def test_both_have_the_same_tokenizer():
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (TARGET / name).read_bytes() == (DRAFT / name).read_bytes()


def test_together_under_32_megabytes():
    size = sum(f.stat().st_size for d in (TARGET, DRAFT) for f in d.rglob("*") if f.is_file())
    assert size < 32_000_000
