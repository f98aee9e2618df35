"""The generated problems that the bundled pair was trained on."""

from __future__ import annotations

import json
from typing import ClassVar

from stet.bundled import SPLITS, TARGET, generate
from stet.core.errors import OptionError
from stet.evaluation.tasks.base import Item, Source, Task
from stet.evaluation.tasks.registry import register
from stet.evaluation.tasks.word_problems import WordProblems

NOTE = (
    "Two small models trained on one synthetic distribution: this shows that the software works, "
    "not that a method helps your models."
)
DEFAULT_COUNT = 300
"""The default number of problems; the generator has no end."""


class _Bundled(Task):
    splits: ClassVar[tuple[str, ...]] = ("test", *(name for name in SPLITS if name != "test"))
    example_split: ClassVar[str | None] = "pair_train"
    template: ClassVar[str] = WordProblems.template
    plain_template: ClassVar[str] = "{{ prompt }}"
    chat: ClassVar[bool] = False
    grader: ClassVar[str | None] = "answer-line"
    max_new_tokens: ClassVar[int] = 256
    note: ClassVar[str] = NOTE
    sampled: ClassVar[bool] = True

    @classmethod
    def native(cls) -> str | None:
        settings = json.loads((TARGET / "tokenizer_config.json").read_text(encoding="utf-8"))
        template: str = settings["chat_template"]
        return template

    def items(self, source: Source) -> list[Item]:
        if source.path is not None or source.names:
            raise OptionError(f"The task {self.name!r} is generated; it reads no file.")
        count = DEFAULT_COUNT if source.count is None else source.count
        return [
            Item(
                # Another seed gives other problems, so it is part of their ids.
                key=f"{source.seed}/{number}",
                fields={"question": problem.text, "prompt": problem.prompt},
                reference=str(problem.answer),
                solution=problem.solution,
                group=f"{len(problem.operations)} operations",
            )
            for number, problem in enumerate(generate(self.name, source.split, count, source.seed))
        ]


@register
class Stories(_Bundled):
    """Generated word problems, the ones that the bundled pair was trained on."""

    name: ClassVar[str] = "stories"
    aliases: ClassVar[tuple[str, ...]] = ("bundled",)


@register
class Units(_Bundled):
    """Generated problems with dates, units and lists, a smaller part of the pair's training."""

    name: ClassVar[str] = "units"
