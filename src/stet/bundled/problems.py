"""Generation of problems: lazy, repeatable, without duplicates."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from stet.bundled import family_chains, family_money, family_things, family_units
from stet.bundled.splits import FAMILIES, OUT_OF_TEMPLATE, SPLITS, Key, split_of
from stet.bundled.story import Difficulty, RejectedDrawError, Story, Template

DEFAULT_DIFFICULTY = Difficulty()

_TRAINED: dict[str, tuple[Template, ...]] = {
    "stories": (*family_things.TRAINED, *family_money.TRAINED, *family_chains.TRAINED),
    "units": family_units.TRAINED,
}
_HELD_OUT: dict[str, tuple[Template, ...]] = {
    "stories": (*family_things.HELD_OUT, *family_money.HELD_OUT, *family_chains.HELD_OUT),
    "units": family_units.HELD_OUT,
}

_ANSWER = re.compile(r"^Answer: (-?\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """One generated problem with its reference solution.

    Attributes:
        family: One of `FAMILIES`.
        template: Name of the template that wrote it.
        numbers: The numbers in the text, needed or not.
        operations: The arithmetic operations in the order the template derives them.
        text: The problem in plain words, as a chat user would ask it.
        prompt: The text in the format that a model reads.
        steps: The solution, one arithmetic step per line.
        answer: The right answer.
    """

    family: str
    template: str
    numbers: tuple[int, ...]
    operations: tuple[str, ...]
    text: str
    prompt: str
    steps: tuple[str, ...]
    answer: int

    @property
    def solution(self) -> str:
        """The steps and the answer line, as a model should write them."""
        return "\n".join([*self.steps, f"Answer: {self.answer}"])

    @property
    def key(self) -> Key:
        """The identity of this problem: template, numbers and operations."""
        return Key(self.template, self.numbers, self.operations)


def format_prompt(text: str) -> str:
    """The prompt the bundled models were trained on, for a problem in plain words."""
    return f"Problem: {text}\nSolution:\n"


def parse_answer(text: str) -> int | None:
    """The number in the last `Answer: N` line, or None where there is none."""
    found = _ANSWER.findall(text)
    return int(found[-1]) if found else None


def template_names(family: str, *, held_out: bool = False) -> list[str]:
    """Names of the templates of a family.

    Args:
        family: One of `FAMILIES`.
        held_out: The templates kept out of all training, instead of those trained on.
    """
    return [t.__name__ for t in (_HELD_OUT if held_out else _TRAINED)[family]]


def iterate(
    family: str, split: str, seed: int = 0, difficulty: Difficulty = DEFAULT_DIFFICULTY
) -> Iterator[Problem]:
    """Problems of one family and split, without end and without duplicates.

    Args:
        family: One of `FAMILIES`.
        split: One of `SPLITS`.
        seed: Different seeds give different streams, which may overlap within the split.
        difficulty: How hard; the bundled pair was trained on the default.

    Raises:
        ValueError: For an unknown family or split.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return _iterate(family, split, seed, difficulty)


def generate(
    family: str, split: str, count: int, seed: int = 0, difficulty: Difficulty = DEFAULT_DIFFICULTY
) -> list[Problem]:
    """The first `count` problems of `iterate`."""
    return list(islice(iterate(family, split, seed, difficulty), count))


def _iterate(family: str, split: str, seed: int, difficulty: Difficulty) -> Iterator[Problem]:
    held_out = split == OUT_OF_TEMPLATE
    templates = (_HELD_OUT if held_out else _TRAINED)[family]
    rng = random.Random(f"stet/{family}/{split}/{seed}")
    seen: set[Key] = set()
    while True:
        # The template is drawn before its numbers and reused until they fit, so that templates
        # which reject many draws are as frequent as the others.
        template = rng.choice(templates)
        problem = None
        while problem is None:
            problem = _draw(family, template, rng, difficulty, None if held_out else split)
        if problem.key not in seen:
            seen.add(problem.key)
            yield problem


def _draw(
    family: str, template: Template, rng: random.Random, difficulty: Difficulty, split: str | None
) -> Problem | None:
    story = Story(rng, difficulty)
    try:
        template(story)
        key = Key(
            template.__name__, tuple(story.numbers), tuple(step.symbol for step in story.steps)
        )
        if split is not None and split_of(key) != split:
            return None
        lines = story.solution_lines()
    except RejectedDrawError:
        return None
    text = story.prompt_text()
    return Problem(
        family=family,
        template=key.template,
        numbers=key.numbers,
        operations=key.operations,
        text=text,
        prompt=format_prompt(text),
        steps=tuple(lines),
        answer=story.steps[-1].result,
    )
