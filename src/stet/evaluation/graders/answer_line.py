"""Grading by the answer line that the bundled models were trained to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stet.bundled import parse_answer
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.registry import register


@register
@dataclass(frozen=True)
class AnswerLine(Grader):
    """Read the whole number in the last `Answer: N` line, and nothing else."""

    name: ClassVar[str] = "answer-line"

    def extract(self, text: str) -> str | None:
        """The number in the last answer line."""
        try:
            number = parse_answer(text)
        except ValueError:  # more digits than Python reads
            return None
        return None if number is None else str(number)

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether both are the same whole number."""
        return answer is not None and self.reads(reference) and answer == str(int(reference))

    def reads(self, reference: str) -> bool:
        """Whether the reference is a whole number."""
        digits = reference.strip().removeprefix("-")
        return digits.isascii() and digits.isdigit()
