"""The interface of a grader: it extracts an answer from a text and compares it with a reference."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable


@runtime_checkable
class Grader(Protocol):
    """Reads and compares answers; a frozen dataclass whose fields are its settings.

    A class that derives from this one inherits `reads` and `settings`. Lists of graders show the
    first line of the docstring.

    Attributes:
        name: the grader's name for users; unique in the registry.
    """

    name: ClassVar[str]

    def extract(self, text: str) -> str | None:
        """The answer in a text, in a canonical form, or None where there is none.

        Equal answers give equal strings, so that answers can be counted and voted on.
        """
        ...

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether an extracted answer equals the reference; no answer is never right."""
        ...

    def reads(self, reference: str) -> bool:
        """Whether this grader can compare with the reference; checked when a task is loaded."""
        return bool(reference.strip())

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the fields, for the records of a run."""
        described: Any = self
        listed = fields(described) if is_dataclass(described) else ()
        return {f.name: getattr(self, f.name) for f in listed}
