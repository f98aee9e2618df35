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
from stet.evaluation.graders.expressions import ask, available
from stet.evaluation.graders.notation import (
    Found,
    canonical,
    continues,
    led,
    mark_boxes,
    numbers,
    plain,
    value_of,
)
from stet.evaluation.graders.registry import register
from stet.evaluation.graders.statements import (
    answers,
    boxes,
    final_part,
    hashes,
    sentence,
    tags,
)

# Words that may be between "the answer is" and its number.
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
_ALGEBRA = re.compile(r"\\[a-zA-Z]|[√π]")
# An expression that may have a number as its value: digits and operations, of limited length.
_REMARKS = re.compile(r"\\(?:left|right|displaystyle|[,!;: ])")
_OPERATIONS = re.compile(
    r"(?:[\d.+*/^(){}×÷!\s-]|\\(?:[dtc]?frac|sqrt|times|cdot|div|binom)(?![a-zA-Z])){1,200}"
)
_RANGE = re.compile(r"\s*\d+\s*-\s*\d+\s*|.*/.*/.*")


@dataclass(frozen=True, slots=True)
class _Stated:
    """The answer that a text states; without a value, it is not a number."""

    value: Fraction | None


@register
@dataclass(frozen=True)
class Number(Grader):
    r"""Read the final number of a text, and compare values exactly.

    The answer that the text states comes first: `#### N`, `\boxed{N}`, `<answer>N</answer>`,
    "Answer: N", "the answer is N"; the last such statement counts, and of an equation its right
    side. An expression that is no plain number is no answer, unless it is in a box and
    `math-verify`, if it is installed, computes a number from it: `\sqrt{16}` is 4. A statement
    counts only where its number follows directly, so "Answer: Tom has 3 boxes of 6 ..." is working,
    not a statement. Where nothing is stated, the last number counts, except ranks ("2nd"). This is
    a convention, not understanding: in "so 5 apples in 2 days" it reads the 2.

    Attributes:
        last_number: read the last number where no answer is stated; otherwise there is no answer.
        tolerance: largest error of an answer, as a share of the reference.
    """

    name: ClassVar[str] = "number"

    last_number: bool = True
    tolerance: float = 0.0

    def extract(self, text: str) -> str | None:
        """The final number of a text, in canonical form."""
        text = final_part(text)
        written = [content for _, content in boxes(mark_boxes(text))]
        value = _read(plain(text), last_number=self.last_number, written=written)
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


def _read(text: str, *, last_number: bool, written: list[str] | None = None) -> Fraction | None:
    """Read the number that a plain text states; `written` has the LaTeX contents of its boxes."""
    found = list(numbers(text))
    boxed = boxes(text)
    known = written if written is not None and len(written) == len(boxed) else [""] * len(boxed)
    places: list[tuple[int, Callable[[], _Stated | None]]] = [
        *(
            (start, partial(_read_box, content, latex))
            for (start, content), latex in zip(boxed, known, strict=True)
        ),
        *((start, partial(_read_tag, content)) for start, content in tags(text)),
        *((start, partial(_read_after, text, start, found)) for start in hashes(text)),
        *(
            (start, partial(_read_after, text, start, found, colon))
            for start, colon in answers(text)
        ),
    ]
    for _, look in sorted(places, key=lambda place: place[0], reverse=True):
        if stated := look():
            return stated.value
    if not last_number:
        return None
    counts = [number for number in found if not number.ordinal] or found
    return counts[-1].value if counts and not _is_part(text, counts[-1]) else None


def _is_part(text: str, number: Found) -> bool:
    r"""Whether the last number of a text is a part of an expression: `2\sqrt{3}`, `3\pi`."""
    rest = text[number.end : number.end + 40].lstrip(" ")
    return led(text, number) or _ALGEBRA.match(rest) is not None


def _read_tag(content: str) -> _Stated:
    """Read the answer between `<answer>` and `</answer>`, in whatever words."""
    found = list(numbers(content))
    if len(found) == 1 and (led(content, found[0]) or continues(content, found[0])):
        return _Stated(None)
    return _Stated(_read(content, last_number=True))


def _read_box(content: str, latex: str) -> _Stated:
    """Read the answer in a box, which always states one, whatever it contains."""
    tail = content.rpartition("=")[2]
    found = list(numbers(tail))
    if found and not _MORE.match(tail, found[0].end):
        first = found[0]
        before = tail[: first.start]
        directly = _FILLER.fullmatch(before) is not None
        if not (continues(tail, first) or led(tail, first) or _is_algebra(before)):
            return _Stated(first.value if directly or len(found) == 1 else None)
    return _Stated(_compute(latex.rpartition("=")[2]))


def _is_algebra(before: str) -> bool:
    """Whether the text before a number in a box makes it a part of an expression."""
    if re.search(r"[-+*/×÷(]\s*$", before) or _ALGEBRA.search(before):
        return True
    return re.search(r"\b(?![aAI]\b)[a-zA-Z]\s*(?:[<>]\s*)?$", before) is not None


def _compute(latex: str) -> Fraction | None:
    """Compute an expression of numbers and operations, where its value is a rational number."""
    latex = _REMARKS.sub(" ", latex)
    if not (_OPERATIONS.fullmatch(latex) and re.search(r"\d", latex)) or _RANGE.fullmatch(latex):
        return None
    value = ask("value", latex.replace("×", "*").replace("÷", "/")) if available() else None
    return None if value is None else Fraction(value)


def _read_after(text: str, start: int, found: list[Found], colon: bool = False) -> _Stated | None:
    """Read the number stated from `start` on; None where nothing is stated after all."""
    following = found[bisect_left(found, start, key=lambda number: number.start) :]
    if not following:
        # "Answer: unknown", or cut off before the number. "The answer is clear" states nothing.
        return _Stated(None) if colon else None
    first = following[0]
    between = text[start : first.start]
    if not _FILLER.fullmatch(between):
        expression = _ALGEBRA.search(between)
        if expression and _FILLER.fullmatch(between, 0, expression.start()):
            return _Stated(None)  # "The answer is \\sqrt{3}"
        return None
    if _goes_on(text, first):
        return _Stated(None)
    if _LISTED.match(text, first.end) and ("\n" in between or text.endswith("####", 0, start)):
        return None  # "#### 1. Find the cost": a heading, or the first step of a list
    whole = sentence(text, first.end)
    rest = _ASIDE.sub(" ", whole)
    if "=" not in rest:
        return None if _MORE.match(rest) else _Stated(first.value)
    if following[-1].start >= first.end + len(whole):
        return None  # an equation with more to come is working
    result = rest.rpartition("=")[2]
    results = list(numbers(result))
    if not results:
        return None
    is_expression = led(result, results[0]) or _goes_on(result, results[0])
    return _Stated(None if is_expression else results[0].value)


def _goes_on(text: str, number: Found) -> bool:
    """Whether a stated number continues as an expression that ends with the statement."""
    rest = text[number.end : number.end + 40].lstrip(" ")
    # "3x as much" is a multiple in words; "3x." is not.
    return bool(
        _ALGEBRA.match(rest) or re.match(r"[xyzn]\s*(?:[$.,;)\x03\n]|[-+*/^]\s*\w|$)", rest)
    )
