"""Grading by a function of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from stet.evaluation.graders.base import Grader
from stet.evaluation.graders.statements import final_part


def whole_text(text: str) -> str | None:
    """The whole text, without the part in `<think>` and without outer spaces."""
    return final_part(text).strip() or None


@dataclass(frozen=True)
class FunctionGrader(Grader):
    """Ask a function whether an answer is right.

    Attributes:
        check: function of the extracted answer and the reference.
        read: function that extracts the answer; by default the whole text.
        label: name in records; by default the function's own name.
    """

    name: ClassVar[str] = "function"

    check: Callable[[str, str], bool]
    read: Callable[[str], str | None] = whole_text
    label: str = ""

    def extract(self, text: str) -> str | None:
        """The answer that `read` extracts from a text."""
        return self.read(text)

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether `check` accepts the answer."""
        return answer is not None and bool(self.check(answer, reference))

    def reads(self, reference: str) -> bool:
        """True for any reference, since only the function can tell."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The names of the functions."""
        return {"check": self.label or _name(self.check), "read": _name(self.read)}


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}:{name}"
