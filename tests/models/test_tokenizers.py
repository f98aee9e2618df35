"""Which pairs of tokenizers are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from families import WORDS, save, tokenizer
from stet.errors import TokenizerMismatch
from stet.models import check_same_tokenizer, load_model, tokenizer_hash

pytestmark = pytest.mark.unit


def test_copies_are_the_same(tmp_path: Path) -> None:
    one = tokenizer()
    one.save_pretrained(tmp_path)
    two = AutoTokenizer.from_pretrained(tmp_path)
    check_same_tokenizer(one, two)
    assert tokenizer_hash(one) == tokenizer_hash(two)


def test_padding_settings_do_not_matter() -> None:
    one, two = tokenizer(), tokenizer()
    two.padding_side = "left"
    two(["a", "abc"], padding=True)
    two(["a", "abc"], truncation=True, max_length=2)
    check_same_tokenizer(one, two)
    assert tokenizer_hash(one) == tokenizer_hash(two)


def test_models_are_named(tmp_path: Path) -> None:
    target = load_model(save(tmp_path / "big"), role="target", device="cpu")
    other = save(tmp_path / "small")
    tokenizer([*WORDS[:10], "ß", *WORDS[11:]]).save_pretrained(other)
    draft = load_model(other, role="draft", device="cpu")
    with pytest.raises(TokenizerMismatch, match="Token 10 is 'g' for .*big and 'ß' for .*small"):
        check_same_tokenizer(target, draft)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*WORDS[:5], WORDS[6], WORDS[5], *WORDS[7:]], "Token 5 is 'b' .* and 'c' for"),
        (WORDS[:-1], f"Token {len(WORDS) - 1} is '\\)' .* and missing for"),
        ([*WORDS, "more"], f"Token {len(WORDS)} is missing .* and 'more' for"),
    ],
)
def test_the_first_differing_token_is_named(words: list[str], message: str) -> None:
    with pytest.raises(TokenizerMismatch, match=message):
        check_same_tokenizer(tokenizer(), tokenizer(words))
    assert tokenizer_hash(tokenizer()) != tokenizer_hash(tokenizer(words))


def test_a_token_that_is_special_for_one_only() -> None:
    one, two = tokenizer(), tokenizer(special="z")
    with pytest.raises(TokenizerMismatch, match="'z'\\) is special for the draft but not"):
        check_same_tokenizer(one, two)


def test_the_same_tokens_with_other_rules() -> None:
    one, two = tokenizer(), tokenizer()
    two.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(TokenizerMismatch, match="split differently: token 0"):
        check_same_tokenizer(one, two)
    assert tokenizer_hash(one) != tokenizer_hash(two)
