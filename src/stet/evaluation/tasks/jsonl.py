"""Problems of your own, in a JSONL file."""

from __future__ import annotations

from typing import ClassVar

from stet.evaluation.tasks.base import Item
from stet.evaluation.tasks.dataset import DatasetTask
from stet.evaluation.tasks.rows import Row, as_text

HIDDEN = ("answer", "solution")
"""Fields that no template sees: a prompt must not contain its own answer."""


class JsonLines(DatasetTask):
    """Records with a question or other fields for the template, and optionally an answer.

    Further fields, if the records have them or `fields` names them: `answer` (the reference), `id`
    (else the number of the record), `group`, and `solution` (for worked examples; else "Answer: "
    and the answer).
    """

    name: ClassVar[str] = "jsonl"
    splits: ClassVar[tuple[str, ...]] = ("all",)
    chat: ClassVar[bool] = False

    def __init__(self, hidden: frozenset[str] = frozenset()) -> None:
        self._hidden = {*HIDDEN, *hidden}

    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item from a record; its other fields are for the template."""
        known = {
            name: as_text(row[name], name, where).strip()
            for name in ("answer", "solution", "id", "group")
            if row.get(name) is not None
        }
        answer = known.get("answer")
        return Item(
            key=known.get("id", str(number)),
            fields={name: found for name, found in row.items() if name not in self._hidden},
            reference=answer,
            solution=known.get("solution", None if answer is None else f"Answer: {answer}"),
            group=known.get("group"),
        )
