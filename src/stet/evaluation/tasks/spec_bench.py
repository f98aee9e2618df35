"""Spec-Bench."""

from __future__ import annotations

from typing import ClassVar

from stet.evaluation.tasks.base import Item, TaskError
from stet.evaluation.tasks.dataset import DatasetTask
from stet.evaluation.tasks.registry import register
from stet.evaluation.tasks.rows import Row, as_text, value

_MT_BENCH = {
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
}


@register
class SpecBench(DatasetTask):
    """Spec-Bench: six kinds of work, for speed and acceptance only (480).

    Only the first turn of a conversation is used. The eight categories of MT-bench are one group,
    as in the published tables.

    Source: Xia et al., arXiv 2401.07851. File: `data/spec_bench/question.jsonl` of
    hemingkx/Spec-Bench.
    """

    name: ClassVar[str] = "spec-bench"
    aliases: ClassVar[tuple[str, ...]] = ("specbench",)
    max_new_tokens: ClassVar[int] = 1024
    home: ClassVar[str] = "take data/spec_bench/question.jsonl of github.com/hemingkx/Spec-Bench"

    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item from a record with `question_id`, `category` and `turns`."""
        turns = value(row, "turns", where)
        if not isinstance(turns, list) or not turns:
            raise TaskError(f"{where} has no turns.")
        category = as_text(value(row, "category", where), "category", where)
        return Item(
            key=as_text(value(row, "question_id", where), "question_id", where),
            fields={"question": as_text(turns[0], "turns", where)},
            group="mt-bench" if category in _MT_BENCH else category,
        )
