"""What a grader is: it reads the answer out of a text and compares it with the reference."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable


@runtime_checkable
class Grader(Protocol):
    """Reads and compares answers; a frozen dataclass whose fields are its settings.

    Derive from this class: then `reads` and `settings` are there already. Lists of graders show the
    first line of the docstring.

    Attributes:
        name: what users call it; unique in the registry.
    """

    name: ClassVar[str]

    def extract(self, text: str) -> str | None:
        """The answer in a text, written one way, or None where there is none.

        Equal answers give equal strings, so that answers can be counted and voted on.
        """
        ...

    def right(self, answer: str | None, reference: str) -> bool:
        """Whether an extracted answer is the reference's; no answer is never right."""
        ...

    def reads(self, reference: str) -> bool:
        """Whether this grader can compare with the reference; asked when a task is loaded."""
        return bool(reference.strip())

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the fields, as records of a run keep them beside the name."""
        described: Any = self
        listed = fields(described) if is_dataclass(described) else ()
        return {f.name: getattr(self, f.name) for f in listed}
