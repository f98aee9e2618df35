"""Grading of multiple choice by the chosen letter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from stet.core.errors import OptionError
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.notation import plain
from stet.evaluation.graders.registry import register
from stet.evaluation.graders.statements import answers, boxes, final_part, hashes, tags

_FILLER = (
    r"(?:[\s*\"“”'‘’:$\[]"
    r"|\b(?:the|is|option|choice|letter|answer|therefore|thus|hence|clearly|definitely)\b){0,60}+"
)
_CHOSEN = re.compile(
    r"\b(?:(?:choose|chose|pick|select)|(?:correct|right|best) (?:option|choice|letter|one) is)\b",
    re.IGNORECASE,
)


@register
@dataclass(frozen=True)
class Choice(Grader):
    r"""Read the chosen letter: "B", "(B)", "B) 5 apples", "the answer is B", `\boxed{B}`.

    The last statement counts ("answer", `####`, a box, `<answer>`, "I choose B"), then the last
    letter on a line of its own, then the last letter in brackets, then the last capital that stands
    alone. "A" and "I" before a word are words, and so is a small letter in running text.

    Attributes:
        letters: the choices, in capitals.
    """

    name: ClassVar[str] = "choice"

    letters: str = "ABCDE"

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z]+", self.letters):
            raise OptionError(
                f"The letters of the choice grader are {self.letters!r}; give capitals such as "
                f"ABCDE."
            )

    def extract(self, text: str) -> str | None:
        """The chosen letter, as a capital."""
        text = plain(final_part(text))
        places = [
            *(start for start, _ in boxes(text)),
            *(start for start, _ in tags(text)),
            *hashes(text),
            *(start for start, _ in answers(text)),
            *(match.end() for match in _CHOSEN.finditer(text)),
        ]
        for start in sorted(places, reverse=True):
            if letter := self._first(text, start):
                return letter
        any_case = self._class(any_case=True)
        for pattern in (
            rf"(?m)^[ *]*(?:\(({any_case})\)|({any_case})[).]?|({self._class()})[).:] .*)[ *.]*$",
            rf"\(({any_case})\)",
            rf"(?<![\w'’])({self._class()})(?![\w'’])(?!-\w)(?!(?<=[AI])[ ]+[a-z])",
        ):
            if found := list(re.finditer(pattern, text)):
                return next(group for group in found[-1].groups() if group).upper()
        return None

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether both are the same letter."""
        return answer is not None and answer == self._reference(reference)

    def reads(self, reference: str) -> bool:
        """Whether the reference is one of the letters."""
        return self._reference(reference) is not None

    def _reference(self, reference: str) -> str | None:
        letter = reference.strip().strip("().").upper()
        return letter if len(letter) == 1 and letter in self.letters else None

    def _first(self, text: str, start: int) -> str | None:
        """The letter that directly follows a position."""
        match = re.compile(
            rf"{_FILLER}(?:\(\s*({self._class(any_case=True)})\s*\)"
            rf"|({self._class()})(?![\w'’])(?!-\w)(?!(?<=[AI])[ ]+[a-z])"
            rf"|({self._class().lower()})(?=[).:,]|\s*(?:$|[\n\x03])))",
        ).match(text, start)
        return next(group for group in match.groups() if group).upper() if match else None

    def _class(self, *, any_case: bool = False) -> str:
        return f"[{self.letters}{self.letters.lower() if any_case else ''}]"
