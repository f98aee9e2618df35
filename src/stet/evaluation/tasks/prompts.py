"""Prompts: templates, and worked examples before a question.

A template is Jinja, in a sandbox: it sees only the fields of one record, and an unknown field is an
error. A worked example is the template rendered with another record, and that record's solution:
after a colon on the same line, else on a new one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stet.evaluation.tasks.base import Item, TaskError

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
)

BETWEEN = "\n\n"


class Prompter:
    """Makes prompts from items.

    Args:
        template: Jinja source.
        shots: worked examples before each question.
        pool: items that may be worked examples; those without a solution are left out.
        seed: seed of the choice of worked examples.

    Raises:
        TaskError: for an invalid template, or too few examples.
    """

    def __init__(
        self, template: str, shots: int = 0, pool: Sequence[Item] = (), seed: int = 0
    ) -> None:
        try:
            self._template = _ENVIRONMENT.from_string(template)
        except TemplateError as error:
            raise TaskError(f"The template cannot be read: {error}.") from error
        self._shots = shots
        usable = [item for item in pool if item.solution]
        self._pool = random.Random(f"stet/examples/{seed}").sample(usable, len(usable))
        if shots and len(usable) < shots:
            raise TaskError(
                f"{shots} worked examples are wanted, and there are {len(usable)} with a solution."
            )

    def prompt(self, item: Item) -> str:
        """The prompt of an item, after the first examples of the pool that are not the item."""
        own = self.fill(item)
        examples: list[str] = []
        for example in self._pool if self._shots else ():
            if len(examples) == self._shots:
                break
            shown = self.fill(example)
            if shown != own:
                examples.append(_join(shown, example.solution or ""))
        if len(examples) < self._shots:
            raise TaskError(
                f"Question {item.key}: only {len(examples)} worked examples are not the question "
                f"itself, and {self._shots} are wanted."
            )
        return BETWEEN.join([*examples, own])

    def fill(self, item: Item) -> str:
        """Render the template with the fields of an item.

        Raises:
            TaskError: for a field that the item does not have, or an expression that fails.
        """
        try:
            return self._template.render(item.fields)
        except UndefinedError as error:
            raise TaskError(
                f"The template uses a field that question {item.key} does not have "
                f"({error.message}); it has: {', '.join(item.fields)}."
            ) from error
        except Exception as error:  # whatever an expression of a template may raise
            raise TaskError(f"The template fails on question {item.key}: {error}.") from error


def _join(prompt: str, solution: str) -> str:
    if prompt[-1:].isspace():
        return prompt + solution
    return prompt + (" " if prompt.endswith(":") else "\n") + solution
