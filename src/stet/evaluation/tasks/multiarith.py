"""MultiArith."""

from __future__ import annotations

import re
from typing import ClassVar

from stet.evaluation.tasks.base import Item, TaskError
from stet.evaluation.tasks.registry import register
from stet.evaluation.tasks.rows import Row, as_text, value
from stet.evaluation.tasks.word_problems import WordProblems, worked


@register
class MultiArith(WordProblems):
    """MultiArith: word problems of several steps (600).

    Source: Roy and Roth, EMNLP 2015. File: `MultiArith.json` with all 600; the hub has 420 of them
    as `train` and 180 as `test`.
    """

    name: ClassVar[str] = "multiarith"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    example_split: ClassVar[str | None] = "train"
    hub: ClassVar[tuple[str, str | None] | None] = ("ChilleD/MultiArith", None)

    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item: from `question` and `final_ans`, or from `sQuestion` and `lSolutions`."""
        if "sQuestion" in row:
            question, answer = row["sQuestion"], value(row, "lSolutions", where)
            if not isinstance(answer, list) or not answer:
                raise TaskError(f"{where} has no solution in 'lSolutions'.")
            answer = answer[0]
        else:
            question, answer = value(row, "question", where), value(row, "final_ans", where)
        reference = re.sub(r"\.0+$", "", as_text(answer, "answer", where).strip())
        return Item(
            key=str(row.get("iIndex", number)),
            fields={"question": as_text(question, "question", where).strip()},
            reference=reference,
            solution=worked("", reference).strip(),
        )
