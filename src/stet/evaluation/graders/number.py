"""Grading by the final number of an answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import ClassVar

from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.notation import Found, canonical, numbers, plain, value_of
from stet.evaluation.graders.registry import register
from stet.evaluation.graders.statements import answers, boxes, final_part, hashes, sentence

# What may stand between "the answer is" and its number.
_FILLER = re.compile(
    r"""(?: [\s*"“”'‘’(\[>≈:] | \$(?!\s*[-\d]) | \b[A-Za-z]\s*= | [=≈]
          | \b(?:a|an|about|amount|approx\.?|approximately|around|are|be|cost|equals?|exactly|hence
            |he|is|it|just|number|of|only|price|result|roughly|she|simply|so|sum|that|the|then|there
            |therefore|they|thus|to|total|value|will)\b ){0,60}+""",
    re.VERBOSE | re.IGNORECASE,
)
_ASIDE = re.compile(r"\([^()]*=[^()]*\)")  # "(because 9 * 2 = 18)"
_MORE = re.compile(r"\s*(?:[-+*/×÷x^]\s*[$(]?\s*\d|(?:,|\band\b|\bor\b|\bto\b)\s*[-$]?\d)")
_LISTED = re.compile(r"[.)]\s+\S")


@dataclass(frozen=True, slots=True)
class _Stated:
    """What a text states as its answer; without a value, something that is not a number."""

    value: Fraction | None


@register
@dataclass(frozen=True)
class Number(Grader):
    r"""Read the final number of a text, and compare values exactly.

    What the text states as its answer comes first: `#### N`, `\boxed{N}`, "Answer: N", "the answer
    is N"; the last such statement counts, and of an equation its right side. A statement counts
    only where its number follows directly, so "Answer: Tom has 3 boxes of 6 ..." is working, not a
    statement. Where nothing is stated, the last number counts, ranks ("2nd") aside; that is a
    convention, not understanding: of "so 5 apples in 2 days" it reads the 2.

    Attributes:
        last_number: read the last number where no answer is stated; otherwise there is no answer.
        tolerance: how far an answer may be from the reference, as a share of the reference.
    """

    name: ClassVar[str] = "number"

    last_number: bool = True
    tolerance: float = 0.0

    def extract(self, text: str) -> str | None:
        """The final number of a text, written one way."""
        value = _read(plain(final_part(text)), last_number=self.last_number)
        return None if value is None else canonical(value)

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether both are the same number, within the tolerance."""
        value = None if answer is None else value_of(answer)
        wanted = self._reference(reference)
        if value is None or wanted is None:
            return False
        return abs(value - wanted) <= Fraction(self.tolerance) * abs(wanted)

    def reads(self, reference: str) -> bool:
        """Whether the reference is a number, or states one."""
        return self._reference(reference) is not None

    def _reference(self, reference: str) -> Fraction | None:
        value = value_of(reference)
        return value if value is not None else _read(plain(reference), last_number=False)


def _read(text: str, *, last_number: bool) -> Fraction | None:
    found = list(numbers(text))
    places: list[tuple[int, Callable[[], _Stated | None]]] = [
        *((start, partial(_boxed, content)) for start, content in boxes(text)),
        *((start, partial(_after, text, start, found)) for start in hashes(text)),
        *((start, partial(_after, text, start, found, colon)) for start, colon in answers(text)),
    ]
    for _, look in sorted(places, key=lambda place: place[0], reverse=True):
        if stated := look():
            return stated.value
    if not last_number:
        return None
    counts = [number for number in found if not number.ordinal] or found
    return counts[-1].value if counts else None


def _boxed(content: str) -> _Stated:
    """A box always states the answer, whatever it holds."""
    tail = content.rpartition("=")[2]
    found = list(numbers(tail))
    if not found or _MORE.match(tail, found[0].end):
        return _Stated(None)
    directly = _FILLER.fullmatch(tail, 0, found[0].start) is not None
    return _Stated(found[0].value if directly or len(found) == 1 else None)


def _after(text: str, start: int, found: list[Found], colon: bool = False) -> _Stated | None:
    """The number stated from `start` on; None where nothing is stated after all."""
    following = found[bisect_left(found, start, key=lambda number: number.start) :]
    if not following:
        # "Answer: unknown", or cut off before the number. "The answer is clear" states nothing.
        return _Stated(None) if colon else None
    first = following[0]
    between = text[start : first.start]
    if not _FILLER.fullmatch(between):
        return None
    if _LISTED.match(text, first.end) and ("\n" in between or text.endswith("####", 0, start)):
        return None  # "#### 1. Find the cost": a heading, or the first step of a list
    whole = sentence(text, first.end)
    rest = _ASIDE.sub(" ", whole)
    if "=" not in rest:
        return None if _MORE.match(rest) else _Stated(first.value)
    if following[-1].start >= first.end + len(whole):
        return None  # an equation with more to come is working
    results = list(numbers(rest.rpartition("=")[2]))
    return _Stated(results[0].value) if results else None
