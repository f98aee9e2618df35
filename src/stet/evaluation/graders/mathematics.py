"""Grading of mathematical expressions with math-verify."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from stet.core.errors import StetError
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.expressions import ask, available
from stet.evaluation.graders.notation import canonical
from stet.evaluation.graders.registry import register
from stet.evaluation.graders.statements import final_part


@register
@dataclass(frozen=True)
class MathVerify(Grader):
    r"""Compare expressions: fractions, roots, intervals, sets, equations, matrices.

    The package `math-verify` extracts the answer (a box first) and decides whether two expressions
    are equal. An extracted answer is LaTeX in a canonical form where that form parses to the same
    expression, else as it was written: equal numbers and reordered terms give equal strings, deeper
    identities may not. An expression that takes longer than a few seconds is no answer, and not
    right.

    Source: https://github.com/huggingface/Math-Verify
    """

    name: ClassVar[str] = "math-verify"

    def __post_init__(self) -> None:
        if not available():
            raise StetError(
                "The grader 'math-verify' needs a package: pip install 'stet-decoding[tasks]'."
            )

    def extract(self, text: str) -> str | None:
        """The final expression of a text."""
        found = ask("extract", final_part(text))
        if not found:
            return None
        written: str | None = found.get("written")
        return canonical(Fraction(found["value"])) if written is None else written

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether both are the same by `math-verify`."""
        return answer is not None and bool(ask("equal", reference, answer))

    def reads(self, reference: str) -> bool:
        """Whether the reference is an expression."""
        return bool(ask("reads", reference))
