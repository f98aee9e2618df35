"""SVAMP."""

from __future__ import annotations

import re
from typing import ClassVar

from stet.evaluation.tasks.base import Item
from stet.evaluation.tasks.registry import register
from stet.evaluation.tasks.rows import Row, as_text, value
from stet.evaluation.tasks.word_problems import WordProblems, worked


@register
class Svamp(WordProblems):
    """SVAMP: word problems of one or two steps, varied so that shortcuts fail (1,000).

    Source: Patel et al., arXiv 2103.07191. File: `SVAMP.json` of arkilpatel/SVAMP, all 1,000; the
    hub has 700 of them as `train` and 300 as `test`. Worked examples from `SVAMP.json` itself leave
    out the question.
    """

    name: ClassVar[str] = "svamp"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    example_split: ClassVar[str | None] = "train"
    hub: ClassVar[tuple[str, str | None] | None] = ("ChilleD/SVAMP", None)

    def item(self, row: Row, number: int, where: str) -> Item:
        """Make an item from `ID`, `Body`, `Question`, `Equation`, `Answer` and `Type`."""
        body, question, equation, answer, kind, key = (
            as_text(value(row, name, where), name, where).strip()
            for name in ("Body", "Question", "Equation", "Answer", "Type", "ID")
        )
        if not body.endswith((".", ",", "?", "!")):
            body += "."
        reference = re.sub(r"\.0+$", "", answer)
        shown = re.sub(r"(?<=\d)\.0+\b", "", equation).removeprefix("(").removesuffix(")").strip()
        return Item(
            key=key,
            fields={"question": f"{body} {question}"},
            reference=reference,
            solution=worked(f"{shown} = {reference}", reference),
            # One of the types is misspelt in part of the records.
            group=kind.replace("Divison", "Division"),
        )
