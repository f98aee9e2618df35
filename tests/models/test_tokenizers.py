"""Which pairs of tokenizers are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from families import VOCAB, WORDS, build, save, tokenizer
from stet import load_pair
from stet.core.errors import TokenizerMismatch
from stet.models import check_same_tokenizer, load_model, tokenizer_hash
from stet.models.tokenizers import difference

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


def test_a_token_that_is_special_for_one_only_is_the_same_token() -> None:
    """Everything is read and shown by the target's tokenizer."""
    check_same_tokenizer(tokenizer(), tokenizer(special="z"))


def added(folder: Path, *words: str) -> Path:
    """A model folder whose tokenizer was given further tokens."""
    save(folder)
    more = tokenizer()
    more.add_tokens([AddedToken(word, special=True) for word in words])
    more.save_pretrained(folder)
    return folder


def test_a_token_that_was_added_to_the_target_alone(tmp_path: Path) -> None:
    """The draft has a row for it, so it can read it; nobody asks it to write it."""
    large, small = added(tmp_path / "large", "<think>"), save(tmp_path / "small")
    target = load_model(large, role="target", device="cpu")
    draft = load_model(small, role="draft", device="cpu")
    assert difference(target, draft) is None
    pair = load_pair(large, small, device="cpu", compile=False)
    assert [m.vocab_size for m in pair.models] == [len(WORDS) + 1] * 2
    result = pair.generate("1+2=<think>3", max_new_tokens=20, ignore_eos=True)
    alone = pair.generate("1+2=<think>3", "target", max_new_tokens=20, ignore_eos=True)
    assert [t.id for t in result.tokens] == [t.id for t in alone.tokens]


def test_a_token_that_was_added_to_the_draft_alone_is_never_written(tmp_path: Path) -> None:
    large, small = save(tmp_path / "large"), added(tmp_path / "small", "<think>", "</think>")
    pair = load_pair(large, small, device="cpu", compile=False)
    assert [m.vocab_size for m in pair.models] == [len(WORDS)] * 2


def test_a_token_that_the_draft_has_no_row_for(tmp_path: Path) -> None:
    """It could not be read: the two are a pair that exchanges text, which these cannot either."""
    words = [f"<{n}>" for n in range(VOCAB - len(WORDS) + 1)]
    large = added(tmp_path / "large", *words)
    wide = build("llama")
    wide.resize_token_embeddings(VOCAB + 1)
    wide.save_pretrained(large)
    for small in (save(tmp_path / "plain"), added(tmp_path / "added", *words)):
        with pytest.raises(TokenizerMismatch, match=f"Token {VOCAB}"):
            load_pair(large, small, device="cpu", compile=False)


class Listed:
    """A tokenizer of added tokens with ids of our choosing."""

    def __init__(self, **added: int) -> None:
        self.added_tokens_decoder = {index: AddedToken(word) for word, index in added.items()}
        self._vocabulary = {"a": 0, "b": 1, **added}

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [0] * len(text)


def test_a_token_of_the_draft_below_the_targets_last_is_refused() -> None:
    """It could be written, for it cannot be cut off with what lies beyond."""
    assert difference(Listed(think=2), Listed(think=2, other=3)) is None
    found = difference(Listed(think=3), Listed(other=2, think=3))
    assert found is not None
    assert found.startswith("Token 2 is missing")
    assert difference(Listed(think=2), Listed(other=2)) is not None


def test_the_same_tokens_with_other_rules() -> None:
    one, two = tokenizer(), tokenizer()
    two.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(TokenizerMismatch, match="split differently: token 0"):
        check_same_tokenizer(one, two)
    assert tokenizer_hash(one) != tokenizer_hash(two)
