"""Grading of mathematical expressions with math-verify."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

from stet.errors import StetError
from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.notation import canonical
from stet.evaluation.graders.registry import register
from stet.evaluation.graders.statements import final_part

SECONDS = 5
"""How long reading or comparing one expression may take; only the main thread can be stopped."""


@cache
def _library() -> ModuleType:
    try:
        module = import_module("math_verify")
    except ImportError as error:
        raise StetError(
            "The grader 'math-verify' needs a package: pip install 'stet-decoding[tasks]'."
        ) from error
    # What it cannot read it returns as nothing; its log would say so at every answer.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return module


@register
@dataclass(frozen=True)
class MathVerify(Grader):
    r"""Compare expressions: fractions, roots, intervals, sets, equations, matrices.

    The package `math-verify` reads the answer (a box first) and decides whether two expressions
    are equal. An extracted answer is LaTeX in one form where that form reads back as the same
    expression, else as it was written: equal numbers and reordered terms give equal strings, deeper
    identities need not.

    Source: https://github.com/huggingface/Math-Verify
    """

    name: ClassVar[str] = "math-verify"

    def __post_init__(self) -> None:
        _library()

    def extract(self, text: str) -> str | None:
        """The final expression of a text."""
        found = _parse(final_part(text))
        if not found:
            return None
        expression, written = found[0], str(found[-1])
        if isinstance(expression, str):
            return written
        if any(getattr(expression, kind, False) for kind in ("is_Rational", "is_Float")):
            return canonical(Fraction(str(expression)))
        formed: str = import_module("sympy").latex(expression)
        return formed if _equal(found, _parse(f"${formed}$")) else written

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether both are the same by `math-verify`."""
        return answer is not None and _equal(_parse(f"${reference}$"), _parse(f"${answer}$"))

    def reads(self, reference: str) -> bool:
        """Whether the reference is an expression."""
        return bool(_parse(f"${reference}$"))


def _seconds() -> int | None:
    # The time limit is a signal, which only the main thread can receive.
    return SECONDS if threading.current_thread() is threading.main_thread() else None


def _parse(text: str) -> list[Any]:
    found: list[Any] = _library().parse(text, parsing_timeout=_seconds())
    return found


def _equal(gold: list[Any], answer: list[Any]) -> bool:
    return bool(gold and answer) and bool(
        _library().verify(gold, answer, timeout_seconds=_seconds())
    )
