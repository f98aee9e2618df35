"""Grading by a function of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.statements import final_part


def whole_text(text: str) -> str | None:
    """The text as it is, without thoughts and outer spaces."""
    return final_part(text).strip() or None


@dataclass(frozen=True)
class FunctionGrader(Grader):
    """Ask a function whether an answer is right.

    Attributes:
        check: given the extracted answer and the reference.
        read: extracts the answer; the whole text where none is given.
        label: what records call it; the function's own name where none is given.
    """

    name: ClassVar[str] = "function"

    check: Callable[[str, str], bool]
    read: Callable[[str], str | None] = whole_text
    label: str = ""

    def extract(self, text: str) -> str | None:
        """What `read` finds in a text."""
        return self.read(text)

    def right(self, answer: str | None, reference: str) -> bool:
        """What `check` says of the answer."""
        return answer is not None and bool(self.check(answer, reference))

    def reads(self, reference: str) -> bool:
        """Any reference: only the function knows."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The functions by name."""
        return {"check": self.label or _name(self.check), "read": _name(self.read)}


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}:{name}"
