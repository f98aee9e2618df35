"""Streaming text and stop strings, whatever the tokens' boundaries."""

from __future__ import annotations

from copy import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stet.core.streaming import TextStream

some = settings(max_examples=300, deadline=None, derandomize=True)

# Tokens are pieces of UTF-8: letters, halves of characters, several letters at once.
PIECES = [b"a", b"b", b"c", b"ab", b"ca", b"bcb", b" ", "é".encode(), b"\xe2", b"\x82", b"\xac"]
PIECES += ["€".encode()[:2], "🙂".encode()[:1], "🙂".encode()[1:], b""]


class Pieces:
    """Decodes as byte-level tokenizers do: bytes joined, broken characters replaced."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        del skip_special_tokens
        return b"".join(PIECES[token] for token in token_ids).decode(errors="replace")


texts = st.lists(st.integers(0, len(PIECES) - 1), max_size=30)
stops = st.lists(st.text("abc €é", min_size=1, max_size=4), max_size=3)
DECODER = Pieces()


def run(tokens: list[int], stop: list[str]) -> tuple[TextStream, int, list[str]]:
    """Push tokens until the stream stops: the stream, the tokens it took, what it handed out."""
    stream = TextStream(DECODER, stop)
    pieces: list[str] = []
    taken = 0
    for token in tokens:
        taken += 1
        if stream.push(token):
            break
        pieces.append(stream.take())
    stream.finish()
    pieces.append(stream.take(final=True))
    return stream, taken, pieces


@some
@given(texts)
def test_the_text_is_what_decoding_everything_gives(tokens: list[int]):
    stream, _, pieces = run(tokens, [])
    assert stream.text == DECODER.decode(tokens)
    assert "".join(pieces) == stream.text


@some
@given(texts, stops)
def test_the_text_ends_before_the_first_stop_string(tokens: list[int], stop: list[str]):
    stream, taken, pieces = run(tokens, stop)
    whole = DECODER.decode(tokens[:taken])
    assert "".join(pieces) == stream.text
    assert whole.startswith(stream.text)
    assert not any(s in stream.text for s in stop)
    if stream.stopped:
        assert stream.met in stop
        assert whole[len(stream.text) :].startswith(stream.met)
    else:
        assert stream.met is None
        assert taken == len(tokens)
        assert stream.text == whole


@some
@given(st.text("abc", max_size=30), st.text("abc", min_size=1, max_size=4))
def test_one_stop_string_is_found_as_a_plain_search_finds_it(text: str, stop: str):
    tokens = [PIECES.index(letter.encode()) for letter in text]
    stream, taken, _ = run(tokens, [stop])
    at = text.find(stop)
    assert stream.stopped == (at >= 0)
    assert stream.met == (stop if at >= 0 else None)
    assert stream.text == (text if at < 0 else text[:at])
    if at >= 0:
        assert taken == at + len(stop)


@some
@given(texts, stops)
def test_no_part_of_a_stop_string_leaks_into_a_stream(tokens: list[int], stop: list[str]):
    stream, _, pieces = run(tokens, stop)
    handed_out = ""
    for piece in pieces:
        handed_out += piece
        assert stream.text.startswith(handed_out)


def test_a_character_is_handed_out_once_it_is_whole():
    stream = TextStream(DECODER)
    pieces = []
    for piece in (b"a", b"\xe2", b"\x82", b"\xac", b"b"):
        stream.push(PIECES.index(piece))
        pieces.append(stream.take())
    assert pieces == ["a", "", "", "€", "b"]


def test_a_broken_character_at_the_end_is_not_lost():
    stream, _, pieces = run([0, PIECES.index(b"\xe2")], [])
    assert stream.text == "a\N{REPLACEMENT CHARACTER}"
    assert pieces[-1] == "\N{REPLACEMENT CHARACTER}"


def test_text_that_may_become_a_stop_string_is_held_back():
    stream = TextStream(DECODER, ["abcb"])
    handed_out = []
    for piece in (b"c", b"a", b"b", b"c", b"c"):
        stream.push(PIECES.index(piece))
        handed_out.append(stream.take())
    assert handed_out == ["c", "", "", "", "abcc"]
    stream.push(0)
    assert stream.take() == ""
    assert stream.take(final=True) == "a"


@pytest.mark.parametrize("final", [False, True])
def test_nothing_follows_a_stop_string(final: bool):
    stream = TextStream(DECODER, ["b"])
    assert not stream.push(0)
    assert stream.push(PIECES.index(b"bcb"))
    assert stream.take(final) == "a"
    assert stream.take(final) == ""


def test_of_stop_strings_in_one_token_the_first_ends_the_text():
    stream = TextStream(DECODER, ["c", "b"])
    assert not stream.push(0)
    assert stream.push(PIECES.index(b"bcb"))
    assert stream.text == "a"


# Special tokens: letters of the vocabulary that decoding leaves out.

NAMES = {len(PIECES): "<|end|>", len(PIECES) + 1: "<|start|>"}
NAMED = [*PIECES, *(name.encode() for name in NAMES.values())]


class WithNames:
    """As `Pieces`, with special tokens."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        shown = [t for t in token_ids if not (skip_special_tokens and t in NAMES)]
        return b"".join(NAMED[token] for token in shown).decode(errors="replace")


spoken = st.lists(
    st.one_of(st.integers(0, 6), st.sampled_from(sorted(NAMES))).filter(lambda t: t != 8),
    max_size=20,
)
naming = st.lists(
    st.lists(st.sampled_from(["a", "b", " ", *NAMES.values()]), min_size=1, max_size=3).map(
        "".join
    ),
    min_size=1,
    max_size=3,
)


@some
@given(spoken, naming)
def test_stop_strings_with_special_tokens_are_found_as_in_the_whole_text(
    tokens: list[int], stop: list[str]
):
    decoder = WithNames()
    stream = TextStream(decoder, stop, NAMES)
    handed_out, taken = "", 0
    for token in tokens:
        taken += 1
        if stream.push(token):
            break
        handed_out += stream.take()
        assert stream.text.startswith(handed_out)
    stream.finish()
    handed_out += stream.take(final=True)
    named = decoder.decode(tokens)
    found = [at for s in stop if (at := named.find(s)) >= 0]
    assert stream.stopped == bool(found)
    accepted = named[: min(found)] if found else named
    for name in NAMES.values():
        accepted = accepted.replace(name, "")
    # A name that a stop string begins inside of was a token, and leaves no letters behind.
    if not any(s in name for s in stop for name in NAMES.values()):
        assert stream.text == handed_out == accepted
    if not found:
        assert taken == len(tokens)


def test_text_before_a_special_token_that_may_begin_a_stop_string_is_held_back():
    end = len(PIECES)
    stream = TextStream(WithNames(), ["b<|end|>c"], NAMES)
    handed_out = []
    for token in (0, 1, end, 0, 1, end, 2):
        if stream.push(token):
            break
        handed_out.append(stream.take())
    assert handed_out == ["a", "", "", "ba", "", ""]
    assert stream.stopped
    assert stream.take() == ""
    assert stream.text == "aba"


def test_text_before_a_special_token_is_held_back_by_its_own_length():
    # Nobody asked for it on the way.
    stream = TextStream(WithNames(), ["bbb<|end|>c"], NAMES)
    for token in (*[0] * 6, 1, 1, 1, len(PIECES)):
        assert not stream.push(token)
    assert stream.take() == "aaaaaa"
    assert stream.take(final=True) == "bbb"


def test_a_character_that_a_special_token_breaks_off_stands_before_it():
    stream = TextStream(WithNames(), ["<|end|>a"], NAMES)
    assert not stream.push(PIECES.index(b"\xe2"))
    assert not stream.push(len(PIECES))
    assert stream.push(0)
    assert stream.text == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_that_begins_inside_a_name_takes_the_token_alone():
    stream = TextStream(WithNames(), ["<|end|>b", "d|>a"], NAMES)
    for token in (2, len(PIECES)):
        assert not stream.push(token)
    assert stream.push(0)
    assert stream.text == "c"


def test_a_copy_looks_ahead_and_leaves_no_trace():
    end = len(PIECES)
    stream = TextStream(WithNames(), ["<|end|>c"], NAMES)
    stream.push(0)
    ahead = copy(stream)
    for token in (end, 1, end):
        assert not ahead.push(token)
    assert ahead.push(2)
    assert ahead.text == "ab"
    for token in (*[0] * 10, end):
        assert not stream.push(token)
    assert stream.push(2)
    assert stream.text == "a" * 11
