"""Vocabularies that are padded, and to different widths: rows without a token do nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch

import stet
from families import WORDS, save, save_pair
from stet.core.errors import OptionError
from stet.pair import Pair
from tiny import llama, near

TOKENS = len(WORDS)
PROMPT = "how many how many"
WIDTHS = {
    "target wider": (TOKENS + 40, TOKENS + 3),
    "draft wider": (TOKENS + 3, TOKENS + 40),
    "draft bare": (TOKENS + 40, TOKENS),
    "target bare": (TOKENS, TOKENS + 40),
}


def padded(model, width: int):
    """The model with rows that it would rather write than anything else, and cannot read.

    Every second state makes such a logit the largest; an embedding of them is no number.
    """
    model.resize_token_embeddings(width, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[TOKENS:] = 50 * torch.randn(width - TOKENS, 32)
        model.model.embed_tokens.weight[TOKENS:] = torch.nan
    return model


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda name: name.replace(" ", "-"))
def pair(request, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    place = tmp_path_factory.mktemp("padded")
    large = llama(vocab=TOKENS, layers=3)
    small = near(large, 0.05)
    wide, narrow = WIDTHS[request.param]
    save(place / "target", model=padded(large, wide))
    save(place / "draft", model=padded(small, narrow))
    return stet.load_pair(place / "target", place / "draft", max_length=400, compile=False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The models without any padding."""
    folders = save_pair(tmp_path_factory.mktemp("bare"), vocab=TOKENS)
    return stet.load_pair(**folders, max_length=400, compile=False)


POLICIES = ["exact", "block", "target", "draft", "ensemble", "fly"]
STEPS = ["spec-reason", "specguard.paper", "specguard.overruling"]
SETTINGS = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 3},
    "cut": {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "seed": 4},
    "recorded": {"temperature": 0.7, "seed": 5, "probabilities": True, "logprobs": 3},
    "penalised": {"repetition_penalty": 1.3, "logit_bias": {5: 2.0}},
    "counted": {"frequency_penalty": 1.0, "presence_penalty": 1.0},
}


def answers(pair: Pair, policy: str, settings: str) -> list[stet.Result]:
    options = {"max_new_tokens": 16, "ignore_eos": True, "draft_length": 4, **SETTINGS[settings]}
    return pair.generate([PROMPT, "the end"], policy, **options)


@pytest.fixture(scope="module")
def wanted(bare: Pair) -> Callable[[str, str], list[stet.Result]]:
    return cache(partial(answers, bare))


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        *((policy, settings) for policy in POLICIES for settings in SETTINGS),
        *((policy, "sampled") for policy in STEPS),
    ],
)
def test_padding_changes_nothing(pair: Pair, wanted, policy: str, settings: str) -> None:
    """The text is that of the models without padding, whatever the rule, and can be read."""
    ours = answers(pair, policy, settings)
    for one, other in zip(ours, wanted(policy, settings), strict=True):
        assert one.error is None
        assert one.token_ids == other.token_ids
        assert max(one.token_ids) < TOKENS
        assert all(max(t.top_logprobs or [0]) < TOKENS for t in one.tokens)


def test_copied_text(pair: Pair, bare: Pair) -> None:
    for policy in ("exact", "block"):
        options = {"max_new_tokens": 24, "ignore_eos": True, "temperature": 1.0, "seed": 1}
        texts = []
        for one in (pair, bare):
            lookup = stet.load_pair(one.target.name, "lookup", max_length=400, compile=False)
            texts.append(lookup.generate(PROMPT, policy, **options).token_ids)
        assert texts[0] == texts[1]


@pytest.mark.parametrize("token", [TOKENS, TOKENS + 2])
def test_rows_without_a_token_cannot_be_named(pair: Pair, token: int) -> None:
    with pytest.raises(OptionError, match=f"logit_bias names token {token}"):
        pair.generate(PROMPT, logit_bias={token: 1.0})
    with pytest.raises(OptionError, match=f"stop_token_ids names token {token}"):
        pair.generate(PROMPT, stop_token_ids=[token])
    with pytest.raises(OptionError, match=f"Token {token} is not in the vocabulary"):
        pair.generate([3, token])


def test_a_text_with_a_token_that_has_no_row_is_refused(tmp_path: Path) -> None:
    """Published tokenizers have such: a picture's place, in a model that reads no pictures."""
    from tokenizers import AddedToken

    from families import tokenizer

    save(tmp_path, model=llama(vocab=TOKENS))
    more = tokenizer()
    more.add_tokens([AddedToken("<picture>", special=True)])
    more.save_pretrained(tmp_path)
    pair = stet.load_pair(tmp_path, "lookup", max_length=400, compile=False)
    with pytest.raises(OptionError, match=f"Token {TOKENS} \\(<picture>\\) is not in the vocab"):
        pair.generate("a<picture>b")
    assert pair.generate("ab", max_new_tokens=3).error is None
