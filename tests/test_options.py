"""Options: every wrong value of every one gets a sentence, and None means that it is not given."""

import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
import torch

import stet
from families import VOCAB, save_pair
from stet.core.errors import OptionError, StetError
from stet.load import load_pair
from stet.requests.options import Asked, Options, read_options

PROMPT = "how many"
PENALTIES = {"repetition_penalty", "frequency_penalty", "presence_penalty"}
NUMBERS = {"temperature", "top_p", "min_p", *PENALTIES, "timeout"}
WHOLE = {"max_new_tokens", "top_k", "seed", "logprobs", "draft_length"}
FLAGS = {"fit", "ignore_eos", "probabilities"}

ODD = [
    "text",
    "",
    "3",
    b"bytes",
    True,
    -1,
    -1.5,
    0.5,
    10**400,
    math.nan,
    math.inf,
    -math.inf,
    1j,
    [],
    [None],
    ["a", 1],
    [True],
    [1.5],
    [-1],
    {},
    {"3": 1.0},
    {3: "a"},
    {3: math.nan},
    {-1: 1.0},
    {1.5: 1.0},
    {3: math.inf},
    {10**6: 1.0},
    {None: 1},
    object(),
    object,
    len,
    np.array(3),
    np.array([1.5]),
    torch.tensor(3),
    torch.zeros(2, 2),
    2**70,
    -(2**70),
    ["a", ""],
    range(3),
    Fraction(1, 3),
]

# What of these is a fine value, beside those that the type allows.
FINE = {
    "max_new_tokens": [10**400, 2**70],
    "temperature": [0.5, Fraction(1, 3)],
    "top_k": [10**400, 2**70],
    "top_p": [0.5, Fraction(1, 3)],
    "min_p": [0.5, Fraction(1, 3)],
    "repetition_penalty": [0.5, Fraction(1, 3), 2**70],
    "frequency_penalty": [-1, -1.5, 0.5, Fraction(1, 3)],
    "presence_penalty": [-1, -1.5, 0.5, Fraction(1, 3)],
    "logit_bias": [{}],
    "stop": ["text", "3", []],
    "stop_token_ids": [[], range(3)],
    "timeout": [0.5, math.inf, Fraction(1, 3), 2**70],
    "policy_parameters": [{}],
    "seed": [-1, [-1]],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = save_pair(tmp_path_factory.mktemp("options"))
    return load_pair(**folders, max_batch=4, max_length=100)


@pytest.mark.parametrize("name", list(Options.__annotations__))
def test_any_value_of_any_option_is_taken_or_refused_in_one_sentence(pair, name):
    refused, taken = [], []
    for value in ODD:
        try:
            pair.generate([PROMPT], **{"max_new_tokens": 2, "draft_length": 2, name: value})
            taken.append(value)
        except StetError as error:
            refused.append(error)
        assert not pair.engine.busy
    assert {type(error) for error in refused} == {OptionError}
    assert not [text for error in refused if "\n" in (text := str(error)) or len(text) > 400]
    for fine in FINE.get(name, []):
        assert any(type(fine) is type(value) and fine == value for value in taken), fine


@pytest.mark.parametrize("name", sorted(NUMBERS | WHOLE | FLAGS))
@pytest.mark.parametrize("value", ["1", [None], b"1", {}, object()])
def test_a_wrong_type_is_named_with_its_value_and_what_is_allowed(pair, name, value):
    with pytest.raises(OptionError, match=rf"^{name} is .*; it must be "):
        pair.generate(PROMPT, **{name: value})


@pytest.mark.parametrize("name", sorted(WHOLE | NUMBERS))
def test_true_and_nan_are_no_numbers(pair, name):
    for value in (True, np.bool_(True), math.nan):
        with pytest.raises(OptionError, match=rf"^{name} is "):
            pair.generate(PROMPT, **{name: value})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"logprobs": True}, "; 1 records the most probable one"),
        ({"logprobs": 21}, "logprobs is 21; it must be a whole number between 0 and 20"),
        ({"stop_token_ids": 5}, "one token goes into a list"),
        ({"logit_bias": {"3": 1.0}}, "the key '3' is a text"),
        ({"timeout": -1}, "timeout is -1; it must be a number of seconds, 0 or more"),
        ({"stop": ["a", 3]}, "it must be a string or a list of strings"),
        ({"seed": [1, 2]}, "seed has 2 entries for 1 prompt"),
        ({"policy": None}, "policy is None"),
        ({"policy": 3}, "policy is 3"),
        ({"policy": stet.Exact}, r"such as Exact\(...\)"),
        ({"policy": ["exact"]}, "it must be a policy"),
        ({"policy": "fuzzy", "policy_parameters": {"threshold": "a"}}, "cannot be made of"),
        ({"policy": "target", "policy_parameters": {"a": 1}}, "has no parameters"),
        ({"logit_bias": {VOCAB: 1.0}}, rf"names token {VOCAB}, but the vocabulary has \d+ tokens"),
    ],
)
def test_sentences(pair, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        pair.generate(PROMPT, **options)


def test_none_means_not_given(pair):
    nothing = dict.fromkeys(Options.__annotations__)
    assert read_options(nothing) == read_options({}) == Asked()
    wanted = pair.generate(PROMPT, draft_length=2)
    assert pair.generate(PROMPT, **{**nothing, "draft_length": 2}).token_ids == wanted.token_ids


def test_every_option_has_a_default_and_a_check():
    assert [f.name for f in fields(Asked)] == list(Options.__annotations__)
    for name in Options.__annotations__:
        read_options({name: None})


def test_numbers_of_numpy_are_numbers(pair):
    found = read_options(
        {
            "temperature": np.float32(0.5),
            "top_k": np.int64(3),
            "seed": np.uint8(7),
            "ignore_eos": np.bool_(True),
            "stop_token_ids": np.array([3, 4]),
            "logit_bias": {np.int64(3): np.float64(1.5)},
        }
    )
    assert found.temperature == 0.5
    assert type(found.temperature) is float
    assert (found.top_k, found.seed, found.ignore_eos) == (3, 7, True)
    assert found.stop_token_ids == (3, 4)
    assert found.logit_bias == {3: 1.5}


def test_an_option_error_is_raised_before_any_prompt_is_run(pair):
    seen = []
    with pytest.raises(OptionError):
        pair.generate([PROMPT, "a"], temperature="warm", on_progress=seen.append)
    assert seen == []
    assert not pair.engine.busy


def test_a_bias_that_leaves_no_token_is_named():
    with load_bundled() as pair:
        every = dict.fromkeys(range(pair.target.vocab_size), -math.inf)
        with pytest.raises(StetError, match="not finite .* or change its logit_bias"):
            pair.generate("a", max_new_tokens=2, logit_bias=every)


def load_bundled():
    return load_pair(max_length=64, max_batch=1, compile=False, self_check=False)
