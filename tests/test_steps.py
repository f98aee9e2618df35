"""Where a step ends: found in text, whatever tokens it arrives in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stet import bundled
from stet.core.errors import OptionError
from stet.core.steps import SENTENCE, Delimiter, LoopGuard, StepReader, ends_of, normalise


class Pieces:
    """A tokenizer's decoding half over given texts: token i is the i-th of them."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        del skip_special_tokens
        return "".join(self.pieces[token] for token in token_ids)


class Bytes:
    """Token i is the byte i, as in a byte-level tokenizer without merges."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        del skip_special_tokens
        return bytes(token_ids).decode("utf-8", errors="replace")


def length(delimiter: Delimiter, *pieces: str, limit: int = 1000) -> int | None:
    """Tokens of the first step of a text that is cut into these pieces."""
    return StepReader(Pieces(*pieces), ends_of(delimiter), limit).read(range(len(pieces)))


# Delimiters


def test_a_step_ends_with_its_delimiter():
    assert length("\n\n", "One", " and", "\n\n", "two") == 3
    assert length("\n\n", "One", " and", "\n", "two") is None


def test_a_delimiter_may_be_spread_over_tokens():
    assert length("\n\n", "One", "\n", "\n", "Two") == 3
    assert length("END", "oneE", "N", "D", "two") == 3


def test_a_token_that_completes_the_delimiter_belongs_to_the_step_with_all_of_its_text():
    assert length("\n\n", "One", ".\n\nThen", " two") == 2
    assert length("\n\n", "One", ".\n", "\nThen", " two") == 3


def test_the_first_of_several_delimiters_counts():
    delimiters = ("\n\n", ";")
    assert length(delimiters, "a", "\n\n", "b", ";") == 2
    assert length(delimiters, "a", ";", "b", "\n\n") == 2
    assert length(delimiters, "a", "\n", "b", ";", "c") == 4


def test_leading_delimiters_and_blanks_end_no_empty_step():
    assert length("\n\n", "\n\n", " ", "\n\n", "One", "\n\n") == 5
    assert length("\n", "\n", "\n", "One", "\n", "Two") == 4
    assert length(";", ";", " ;", "One", ";", "Two") == 4
    assert length(" ;", " ;", "One", " ;", "Two") == 3
    assert length("\n", "\n", " ", "\n") is None


def test_a_delimiter_is_a_text_and_no_pattern():
    assert length(".", "ab", "c", ".", "d") == 3
    assert length("(*", "ab", "(", "*", "d") == 3


@pytest.mark.parametrize(
    "pieces", [["He said", '"Stop!"', " And", " left."], ["It is", " (so.)", " "]]
)
def test_a_sentence_ends_behind_its_closing_quotes_and_brackets(pieces: list[str]):
    assert length(SENTENCE, *pieces) == 2


def test_a_sentence_ends_at_white_space_and_not_at_a_decimal_point():
    assert length(SENTENCE, "It costs 3", ".", "5", " euros", ".", " Then") == 5
    assert length(SENTENCE, "It costs 3", ".", "5", " euros", ".") is None
    assert length(SENTENCE, "Really", "?", "\n", "Yes") == 2
    assert length(SENTENCE, " \n", "Go", "!", " Now", ".") == 3
    assert length(SENTENCE, "是的", "。", "好") == 2


def test_the_white_space_that_ends_a_sentence_is_not_part_of_its_step():
    # Three tokens were read to know that the step has two.
    reader = StepReader(Pieces("One", ".", " Two", "."), ends_of(SENTENCE), 10)
    assert [reader.push(token) for token in range(3)] == [False, False, True]
    assert (reader.count, reader.length) == (3, 2)


def test_a_function_may_say_where_a_step_ends():
    def second_comma(text: str) -> int | None:
        parts = text.split(",")
        return len(",".join(parts[:2])) + 1 if len(parts) > 2 else None

    assert length(second_comma, "a", ",b", ",", "c,") == 3
    assert length(second_comma, "a", ",b") is None


@pytest.mark.parametrize(("said", "tokens"), [(-3, 1), (0, 1), (3, 2), (99, 2)])
def test_a_function_that_points_outside_the_text_ends_the_step_somewhere(said: int, tokens: int):
    ends = {2: said}
    assert length(lambda text: ends.get(len(text) - 1), "ab", "c", "d") == tokens


@pytest.mark.parametrize("delimiter", ["", (), ("\n", ""), 7, ("\n", 7), None])
def test_delimiters_that_make_no_sense_are_refused(delimiter: Delimiter):
    with pytest.raises(OptionError, match="delimiter"):
        ends_of(delimiter)


# The reader


def test_a_step_ends_at_its_token_limit():
    assert length("\n", "a", "b", "c", "d", limit=3) == 3
    assert length("\n", "a", "b", "\n", "d", limit=3) == 3
    assert length("\n", "a", "b", limit=3) is None


def test_a_complete_step_takes_in_no_more():
    reader = StepReader(Pieces("a", "\n", "b"), ends_of("\n"), 10)
    assert reader.read([0, 1, 2, 2]) == 2
    assert reader.push(0)
    assert (reader.read([0, 1, 2, 2]), reader.count) == (2, 2)


def test_tokens_are_read_once_however_they_arrive():
    pieces = Pieces("a", "b", "\n")
    at_once, growing = (StepReader(pieces, ends_of("\n"), 10) for _ in range(2))
    assert at_once.read([0, 1, 2]) == 3
    assert [growing.read([0, 1, 2][:n]) for n in (0, 1, 1, 2, 3)] == [None] * 4 + [3]


def test_a_character_may_be_spread_over_tokens():
    text = "né€\U0001f600;x".encode()
    reader = StepReader(Bytes(), ends_of(";"), 100)
    assert reader.read(list(text)) == text.index(b";") + 1
    reader = StepReader(Bytes(), ends_of("€"), 100)
    assert reader.read(list(text)) == len("né€".encode())


def test_bytes_that_are_no_character_do_not_hide_the_limit():
    reader = StepReader(Bytes(), ends_of(";"), 3)
    assert reader.read([0xF0, 0xF0, 0xF0, 0xF0]) == 3


DELIMITERS: list[tuple[str, ...]] = [("\n",), ("\n\n",), (";",), ("\n\n", ";"), ("ab", "\n")]


def first_end(text: str, delimiters: tuple[str, ...]) -> int | None:
    """The shortest beginning that ends with a delimiter and holds something before it."""
    for end in range(1, len(text) + 1):
        for delimiter in delimiters:
            before = text[: end - len(delimiter)]
            for each in delimiters:
                before = before.replace(each, "")
            if text[:end].endswith(delimiter) and before.strip():
                return end
    return None


pieces = st.lists(st.text("ab\n; ", min_size=0, max_size=4), max_size=12)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(pieces, st.sampled_from(DELIMITERS), st.integers(1, 14))
def test_a_step_ends_at_the_first_token_that_reaches_its_end(
    cut: list[str], delimiters: tuple[str, ...], limit: int
):
    end = first_end("".join(cut), delimiters)
    sizes = [len("".join(cut[: n + 1])) for n in range(len(cut))]
    reached = None if end is None else next(n for n, size in enumerate(sizes, 1) if size >= end)
    if reached is None or reached > limit:
        reached = limit if len(cut) >= limit else None
    assert length(delimiters, *cut, limit=limit) == reached


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text('ab1.!" \n', max_size=20), st.sets(st.integers(1, 19)))
def test_a_sentence_ends_at_the_same_place_however_it_is_cut(text: str, cuts: set[int]):
    edges = [0, *sorted(c for c in cuts if c < len(text)), len(text)]
    cut = [text[a:b] for a, b in pairwise(edges)]
    by_letter = length(SENTENCE, *text)
    found = length(SENTENCE, *cut)
    assert (found is None) == (by_letter is None)
    if by_letter is not None:
        assert found == next(n for n, end in enumerate(edges[1:], 1) if end >= by_letter)


def test_the_bundled_tokenizer_is_read_line_by_line():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled.TARGET)
    lines = ["Tom has 3 + 4.5 = 7.5 apples.\n", "\n", "He eats é \U0001f600 two.\n", "#### 5.5\n"]
    tokens = tokenizer("".join(lines), add_special_tokens=False)["input_ids"]
    found = []
    while tokens:
        reader = StepReader(tokenizer, ends_of("\n"), 1000)
        count = reader.read(tokens)
        assert count is not None
        found.append(tokenizer.decode(tokens[:count]))
        tokens = tokens[count:]
    assert found == [lines[0], lines[1] + lines[2], lines[3]]


# What a step says


def test_case_and_white_space_do_not_count_between_steps():
    assert normalise("  Tom  has\n3\tApples. \n\n") == "tom has 3 apples."
    assert normalise("3.5") != normalise("35")


def test_the_same_step_again_and_again_is_a_loop():
    guard = LoopGuard(repeats=4)
    assert [guard.push(t) for t in ("a", "b\n", "B", " b ", "b\n\n")] == [False] * 4 + [True]


def test_a_table_or_code_with_a_dozen_equal_lines_is_none():
    guard = LoopGuard()
    row = ["| 0 | 0 |\n"] * 12
    assert not any(guard.push(t) for t in ["| a | b |\n", *row, "| 1 | 0 |\n", *row])
    assert any(guard.push(t) for t in row)


def test_what_the_target_writes_is_no_loop_and_breaks_one():
    guard = LoopGuard(repeats=3)
    assert not any(guard.push("a", drafted=False) for _ in range(50))
    assert not any(guard.push("a", drafted=n % 3 > 0) for n in range(50))
    assert [guard.push("a") for _ in range(3)][-1]


def test_a_guard_can_be_switched_off():
    guard = LoopGuard(repeats=0)
    assert not any(guard.push("a") for _ in range(100))


def test_a_few_steps_in_turn_are_a_loop():
    guard = LoopGuard(repeats=3)
    steps = ["x", *("a", "a", "b") * 3]
    assert [guard.push(t) for t in steps] == [False] * 9 + [True]
    guard = LoopGuard(repeats=3)
    assert not any(guard.push(t) for t in ("a", "b", "c", "d") * 6)


def test_a_different_step_in_between_is_no_loop():
    guard = LoopGuard(repeats=3)
    assert not any(guard.push(t) for t in ("a", "a", "b", "a", "a", "c", "a", "a", "d"))


def test_closing_brackets_may_follow_each_other():
    guard = LoopGuard(repeats=2)
    assert not any(guard.push("}") for _ in range(7))
    assert guard.push("}")


def test_steps_without_text_are_a_loop_too():
    guard = LoopGuard(repeats=2)
    assert [guard.push(t) for t in ("a", "", " \n")] == [False, False, True]
