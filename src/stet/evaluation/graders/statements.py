"""Places at which a text states its answer explicitly, and their contents."""

from __future__ import annotations

import re

from stet.evaluation.graders.notation import BOX_CLOSE, BOX_OPEN

LONGEST = 500
"""The most characters of a sentence, so that an endless repetition takes limited time."""

_ANSWER = re.compile(
    r"\banswer\b(?P<between>(?:(?!\bnot\b)[^.!?\n\d=:;\x02]){0,60}?)"
    r"(?P<link>[:=]|\b(?:is|equals|would be|should be|must be|comes to)\b)"
    r"(?!\s*not\b)(?:[ ]*:)?",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(/?)(?:final[_ -]?)?answer>", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)")
_BOX = re.compile(f"{BOX_OPEN}([^{BOX_OPEN}{BOX_CLOSE}]*){BOX_CLOSE}")
# Not a dot inside a number or after an abbreviation's single letter.
_SENTENCE_END = re.compile(rf"[.!?;](?=\s|$)|\n|{BOX_CLOSE}")


def final_part(text: str) -> str:
    """A text without the part in `<think>` before it; empty where that part never ends."""
    _, mark, rest = text.rpartition("</think>")
    if mark:
        return rest
    return "" if "<think>" in text else text


def hashes(text: str) -> list[int]:
    """The positions after each `####`."""
    return [match.end() for match in _HASHES.finditer(text)]


def answers(text: str) -> list[tuple[int, bool]]:
    """Find "Answer:", "the answer is" and the like.

    Returns:
        The positions after the words, and whether a colon or an equals sign ends them: then the
        answer follows, whereas anything may follow "is".
    """
    found: list[tuple[int, bool]] = []
    position = 0
    while match := _ANSWER.search(text, position):
        found.append((match.end(), match[0].rstrip()[-1] in ":="))
        position = match.start() + len("answer")
    return found


def tags(text: str) -> list[tuple[int, str]]:
    """The contents of every `<answer>...</answer>`, with their positions."""
    found: list[tuple[int, str]] = []
    opened: int | None = None
    for match in _TAG.finditer(text):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            found.append((opened, text[opened : match.start()]))
            opened = None
    return found


def boxes(text: str) -> list[tuple[int, str]]:
    r"""The contents of every innermost `\boxed{...}` of a plain text, with their positions."""
    return [(match.start(1), match[1]) for match in _BOX.finditer(text)]


def sentence(text: str, start: int) -> str:
    """The rest of the sentence (or line) from a position on, at most `LONGEST` characters."""
    stop = min(len(text), start + LONGEST)
    end = _SENTENCE_END.search(text, start, stop)
    return text[start : end.start() if end else stop]
