"""Common settings of the sets of grade-school word problems."""

from __future__ import annotations

from typing import ClassVar

from stet.evaluation.tasks.dataset import DatasetTask


class WordProblems(DatasetTask):
    """Problems in words whose answer is a number."""

    template: ClassVar[str] = (
        "{{ question }}\n\n"
        'Reason step by step. End with a line of the form "Answer: N", where N is a number.'
    )
    plain_template: ClassVar[str] = "Question: {{ question }}\nSolution:"
    plain_stop: ClassVar[tuple[str, ...]] = ("\nQuestion:",)
    grader: ClassVar[str | None] = "number"


def worked(steps: str, answer: str) -> str:
    """A solution in the form that the prompts of these tasks ask for."""
    return f"{steps.strip()}\nAnswer: {answer}"
