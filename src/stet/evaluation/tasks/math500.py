"""MATH-500."""

from __future__ import annotations

from typing import ClassVar

from stet.evaluation.tasks.base import Item
from stet.evaluation.tasks.dataset import DatasetTask
from stet.evaluation.tasks.registry import register
from stet.evaluation.tasks.rows import Row, as_text, value


@register
class Math500(DatasetTask):
    """MATH-500: competition mathematics, answers are expressions (500).

    Source: Lightman et al., arXiv 2305.20050; Hendrycks et al., arXiv 2103.03874. Files:
    `test.jsonl` of HuggingFaceH4/MATH-500, or of openai/prm800k. There is no training split: worked
    examples are other questions of the set.
    """

    name: ClassVar[str] = "math500"
    aliases: ClassVar[tuple[str, ...]] = ("math-500",)
    template: ClassVar[str] = (
        "{{ question }}\n\nReason step by step, and put your final answer within \\boxed{}."
    )
    plain_template: ClassVar[str] = "Problem: {{ question }}\nSolution:"
    plain_stop: ClassVar[tuple[str, ...]] = ("\nProblem:",)
    grader: ClassVar[str | None] = "math-verify"
    max_new_tokens: ClassVar[int] = 2048
    hub: ClassVar[tuple[str, str | None] | None] = ("HuggingFaceH4/MATH-500", None)

    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item from a record with `problem`, `solution`, `answer` and `level`."""
        problem, solution, answer, level = (
            as_text(value(row, name, where), name, where).strip()
            for name in ("problem", "solution", "answer", "level")
        )
        return Item(
            key=str(number),
            fields={"question": problem},
            reference=answer,
            solution=solution,
            group=f"level {level}",
        )
