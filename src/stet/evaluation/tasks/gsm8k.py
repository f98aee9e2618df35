"""GSM8K."""

from __future__ import annotations

import re
from typing import ClassVar

from stet.evaluation.tasks.base import Item, TaskError
from stet.evaluation.tasks.registry import register
from stet.evaluation.tasks.rows import Row, as_text, value
from stet.evaluation.tasks.word_problems import WordProblems, worked

_CALCULATOR = re.compile(r"<<[^<>]*>>")


@register
class Gsm8k(WordProblems):
    """GSM8K: grade-school word problems with worked solutions (test 1,319, train 7,473).

    Source: Cobbe et al., arXiv 2110.14168. Files: `test.jsonl` and `train.jsonl` of
    openai/grade-school-math.
    """

    name: ClassVar[str] = "gsm8k"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    example_split: ClassVar[str | None] = "train"
    hub: ClassVar[tuple[str, str | None] | None] = ("openai/gsm8k", "main")

    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item from a record with `question`, and `answer` whose last line is `#### N`."""
        solution = as_text(value(row, "answer", where), "answer", where)
        steps, mark, answer = solution.rpartition("####")
        if not mark:
            raise TaskError(f"{where} has an answer without a line '#### N'.")
        reference = answer.strip().replace(",", "")
        return Item(
            key=str(number),
            fields={"question": as_text(value(row, "question", where), "question", where).strip()},
            reference=reference,
            solution=worked(_CALCULATOR.sub("", steps), reference),
        )
