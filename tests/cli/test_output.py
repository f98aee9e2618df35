import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from stet.cli.output import coloured, cut_short, legend, plain, summary
from stet.core.trace import Counters, TokenRecord


def records(*pieces):
    return [TokenRecord(i, text, origin, "") for i, (origin, text) in enumerate(pieces)]


def terminal(**options):
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", **options)


def rendered(console, text):
    console.print(text, end="")
    return console.file.getvalue()


def test_colours_come_with_underline_and_weight():
    console = terminal()
    shown = rendered(console, coloured(records(("draft", "a"), ("target", "b")), "ab", console))
    assert "\x1b[38;2;86;180;233ma" in shown
    assert "\x1b[1;4;38;2;230;159;0mb" in shown


def test_without_colour_the_target_is_still_underlined():
    console = terminal(no_color=True)
    shown = rendered(console, coloured(records(("draft", "a"), ("target", "b")), "ab", console))
    assert shown.startswith("a")
    assert "\x1b[1;4mb" in shown


def test_answers_that_did_not_end_by_themselves_are_counted():
    def ended(*reasons):
        return cut_short([SimpleNamespace(finish_reason=reason) for reason in reasons])

    assert ended("stop", "error") is None
    assert ended("length", "stop", "loop", "length") == (
        "Of 4 answers 2 reached the limit of tokens, 1 went in a loop."
    )


def test_legend_looks_like_what_it_explains():
    console = terminal()
    assert "\x1b[1;4;38;2;230;159;0mwritten by the target" in rendered(console, legend(console))


def file_console():
    return Console(file=io.StringIO())


@pytest.mark.parametrize(
    ("pieces", "text", "expected"),
    [
        # the stop token is not shown
        ([("draft", "a"), ("target", "</s>")], "a", "a"),
        # a text cut inside a token by a stop string
        ([("draft", "a b"), ("target", " cd")], "a b c", "a b c"),
        # a character of two tokens, by one author and by two
        ([("draft", "x"), ("target", "\ufffd"), ("target", "\ufffd")], "xé", "x[[é]]"),
        ([("target", "x"), ("draft", "\ufffd"), ("target", "\ufffd")], "xé", "[[x]][[é]]"),
        # a decoder that drops the first space
        ([("draft", " a"), ("target", " b")], "a b", "a[[ b]]"),
        ([], "", ""),
        ([], "text", "[[text]]"),
    ],
)
def test_all_of_the_text_is_shown_whatever_the_tokens_look_like(pieces, text, expected):
    shown = coloured(records(*pieces), text, file_console()).plain
    assert shown.replace("[[", "").replace("]]", "") == text
    if expected != "a b c":
        assert shown == expected


def test_summary_leaves_out_what_did_not_happen():
    assert summary(Counters(emitted_tokens=5), 2.0) == "5 tokens in 2.00 s (2 tokens/s)"


def test_plain_json_values(tmp_path):
    assert plain({1: (tmp_path, {"b": [Counters()]})})["1"][0] == str(tmp_path)
