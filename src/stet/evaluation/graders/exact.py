"""Grading by the words of an answer."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.notation import BOX_CLOSE, BOX_OPEN, mark_boxes
from stet.evaluation.graders.registry import register
from stet.evaluation.graders.statements import answers, boxes, final_part, hashes, tags

_EDGES = " \t\"'“”‘’`*_.,;:!?" + BOX_OPEN + BOX_CLOSE


@register
@dataclass(frozen=True)
class ExactGrader(Grader):
    r"""Compare words, ignoring case, spaces, outer quotes and outer punctuation.

    The answer is the text that follows the last "Answer:", "the answer is" or `####` on its line
    (or the next, where the line ends there), or the content of the last box or
    `<answer>...</answer>`; else the last line that is not empty.

    Attributes:
        case: whether capitals matter.
    """

    name: ClassVar[str] = "exact"

    case: bool = False

    def extract(self, text: str) -> str | None:
        """The stated answer or the last line, in a canonical form."""
        text = mark_boxes(final_part(text))
        stated = [
            *boxes(text),
            *tags(text),
            *((start, _line(text, start)) for start in hashes(text)),
            *((start, _line(text, start)) for start, _ in answers(text)),
        ]
        found = max(stated)[1] if stated else next(reversed(text.strip().splitlines()), "")
        return self._normal(found) or None

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether both have the same words."""
        return answer is not None and self._normal(answer) == self._normal(reference)

    def reads(self, reference: str) -> bool:
        """Whether the canonical form of the reference is not empty."""
        return bool(self._normal(reference))

    def _normal(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
        text = " ".join(text.split()).strip(_EDGES)
        return text if self.case else text.casefold()


def _line(text: str, start: int) -> str:
    return text[start:].lstrip("* \t\n").partition("\n")[0]
