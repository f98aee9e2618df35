"""Text behind accepted tokens, and tokens behind them, by tokenizers of many kinds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tongues
from stet.core.errors import TokenizerMismatch
from stet.models.tokenizers import check_text_exchange, difference
from stet.text.codec import Codec

CODECS = {name: Codec(make()) for name, make in tongues.KINDS.items()}
ANY = st.characters(codec="utf-8", exclude_characters="\N{REPLACEMENT CHARACTER}")
PLAIN = st.sampled_from(" abcdefgxyzABC0123456789.,;:!?+-*/=()\"'\n")
WORDS = st.sampled_from(["Ann has", " 3", " boxes", "\n", "\n\n", "  ", " = 7", tongues.END, "So "])


def decoded(name: str, tokens: list[int]) -> str:
    return tongues.KINDS[name]().decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("name", tongues.KINDS)
@settings(max_examples=30, deadline=None)
@given(
    pieces=st.lists(st.one_of(WORDS, st.text(PLAIN, min_size=1, max_size=12)), max_size=12),
    start=st.sampled_from(["Problem:", " Ann has 3 boxes.\n", "x"]),
)
def test_plain_text_is_added_piece_by_piece_as_it_is(name: str, pieces: list[str], start: str):
    codec, tokens = CODECS[name], list(tongues.KINDS[name]()(start)["input_ids"])
    whole = decoded(name, tokens)
    for piece in pieces:
        found = codec.tokens_after(tokens, piece)
        assert found is not None
        assert codec.text_after([*tokens, *found], len(tokens)) == piece
        tokens += found
        whole += piece
        assert decoded(name, tokens) == whole


@pytest.mark.parametrize("name", ["byte-level", "prefix-space", "byte-fallback"])
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.text(ANY, min_size=1, max_size=6), max_size=6))
def test_tokenizers_with_bytes_can_say_anything(name: str, pieces: list[str]):
    codec, tokens = CODECS[name], list(tongues.KINDS[name]()("Ann")["input_ids"])
    whole = decoded(name, tokens)
    for piece in pieces:
        found = codec.tokens_after(tokens, piece)
        assert found is not None
        tokens += found
        whole += piece
        assert decoded(name, tokens) == whole


@pytest.mark.parametrize("name", tongues.KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_tokens_read_as_the_text_that_they_add_or_are_refused(name: str, data: st.DataObject):
    size = len(tongues.KINDS[name]())
    tokens = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=80))
    start = data.draw(st.integers(0, len(tokens)))
    before, after = decoded(name, tokens[:start]), decoded(name, tokens)
    text = CODECS[name].text_after(tokens, start)
    if text is not None:
        assert before + text == after
    elif after.startswith(before):
        assert after.endswith("\N{REPLACEMENT CHARACTER}")


def test_the_end_of_a_text_inside_a_character_is_refused():
    codec, tokenizer = CODECS["smaller"], tongues.KINDS["smaller"]()
    tokens = tokenizer("é🙂")["input_ids"]
    readable = [codec.text_after(tokens[:n], 0) for n in range(len(tokens) + 1)]
    assert readable == ["", None, "é", None, None, None, "é🙂"]


def test_what_looks_like_a_special_token_stays_text():
    for codec in CODECS.values():
        found = codec.tokens_after([5, 6], f"a{tongues.END}b")
        assert found is not None
        assert 0 not in found


def test_what_a_tokenizer_changes_or_does_not_know_is_refused():
    lower = Codec(tongues.lowercasing())
    assert lower.tokens_after([5], " ann") is not None
    assert lower.tokens_after([5], " Ann") is None
    assert lower.changed("Ann\n") == "ann\n"
    assert CODECS["unigram"].tokens_after([5], "é") is None
    assert CODECS["unigram"].changed("Ann\n") is None


def test_encoding_leaves_the_tokenizer_of_others_alone():
    tokenizer = tongues.byte_level(320)
    Codec(tokenizer).tokens_after([5], tongues.END)
    assert tokenizer.backend_tokenizer.encode(tongues.END).ids == [0]


def test_a_pair_that_cannot_exchange_text_is_refused():
    one, two = tongues.byte_level(300), tongues.lowercasing()
    found = difference(one, two)
    assert found is not None
    check_text_exchange(one, tongues.unigram(), found)
    for pair in ((one, two), (two, one)):
        with pytest.raises(TokenizerMismatch, match="'the answer is 42"):
            check_text_exchange(*pair, found)
