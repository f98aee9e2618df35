"""Construction of one problem: facts, a question, and a graph of arithmetic steps.

A template calls a `Story`: it draws numbers, adds facts, and derives values. The story keeps the
steps as a graph, so that it can write them in any valid order, and rejects values that are not
whole non-negative numbers and problems that are too long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stet.bundled.wording import NAMES, SIDE_THINGS, STEP_FORMS, THINGS

LARGEST = 9999
MIN_OPERATIONS = 2
MAX_OPERATIONS = 8


class RejectedDrawError(Exception):
    """The numbers drawn do not make a valid problem; the caller draws again."""


@dataclass(frozen=True)
class Difficulty:
    """How hard the problems are.

    Attributes:
        digits: Relative weights of amounts with 1, 2, 3 and 4 digits.
        hard_multiplication: Share of products whose factors are a digit longer than the easy ones.
        distractors: Probability of a fact with a number that is not needed.
        extensions: Probability of each optional clause, which adds operations.
    """

    digits: tuple[float, float, float, float] = (0.06, 0.58, 0.31, 0.05)
    hard_multiplication: float = 0.12
    distractors: float = 0.4
    extensions: float = 0.5


@dataclass(frozen=True)
class Value:
    """A number of the story: given in the text, or the result of the step with index `step`."""

    number: int
    step: int | None = None

    def __str__(self) -> str:
        return str(self.number)

    def __format__(self, spec: str) -> str:
        return format(self.number, spec)


@dataclass(frozen=True)
class StoryStep:
    """One arithmetic step: `left symbol right = result`, called by one of its labels."""

    left: Value
    symbol: str
    right: Value
    result: int
    labels: tuple[str, ...]


@dataclass
class Story:
    """A problem while it is being written."""

    rng: random.Random
    difficulty: Difficulty
    facts: list[str] = field(default_factory=list[str])
    question: str = ""
    steps: list[StoryStep] = field(default_factory=list[StoryStep])
    numbers: list[int] = field(default_factory=list[int])

    # --- drawing -------------------------------------------------------------------------------

    def given(self, number: int) -> Value:
        """Record a number that is given in the text."""
        if not 0 <= number <= LARGEST:
            raise RejectedDrawError
        self.numbers.append(number)
        return Value(number)

    def between(self, low: int, high: int) -> Value:
        """Draw a number from low to high, both included."""
        return self.given(self.rng.randint(low, high))

    def amount(self, most: int = 4) -> Value:
        """Draw a quantity of one to `most` digits, with the difficulty's weights."""
        digits = self.rng.choices((1, 2, 3, 4), self.difficulty.digits)[0]
        digits = min(digits, most)
        low, high = ((2, 9), (10, 99), (100, 999), (1000, 4999))[digits - 1]
        return self.between(low, high)

    def factors(self) -> tuple[Value, Value]:
        """Draw two numbers to multiply: a small count and a larger size."""
        if self.rng.random() < self.difficulty.hard_multiplication:
            if self.rng.random() < 0.5:
                return self.between(3, 9), self.between(101, 499)
            return self.between(11, 25), self.between(11, 60)
        return self.between(2, 9), self.between(3, 60)

    def chance(self) -> bool:
        """Draw whether an optional clause is added."""
        return self.rng.random() < self.difficulty.extensions

    def pick(self, *choices: str) -> str:
        """Draw one of the choices, all equally likely."""
        return self.rng.choice(choices)

    def names(self, count: int) -> list[str]:
        """Draw the names of so many different people."""
        return self.rng.sample(NAMES, count)

    def thing(self) -> str:
        """Draw what the story counts, in the plural."""
        return self.rng.choice(THINGS)

    # --- telling -------------------------------------------------------------------------------

    def say(self, *wordings: str) -> None:
        """Add a fact, in one of these wordings."""
        self.facts.append(self.rng.choice(wordings))

    def ask(self, *wordings: str) -> None:
        """Set the question, in one of these wordings."""
        self.question = self.rng.choice(wordings)

    def distract(self, name: str) -> None:
        """Add, at the difficulty's rate, a fact with a number that is not needed."""
        if self.rng.random() >= self.difficulty.distractors:
            return
        number, thing = self.between(2, 99), self.rng.choice(SIDE_THINGS)
        fact = self.rng.choice(
            (f"{name} also has {number} {thing}.", f"{name} sees {number} {thing}.")
        )
        self.facts.insert(self.rng.randint(1, len(self.facts)), fact)

    # --- reasoning -----------------------------------------------------------------------------

    def _derive(
        self, left: Value, symbol: str, right: Value, result: int, labels: Sequence[str]
    ) -> Value:
        if not 0 < result <= LARGEST or len(self.steps) >= MAX_OPERATIONS:
            raise RejectedDrawError
        self.steps.append(StoryStep(left, symbol, right, result, tuple(labels)))
        return Value(result, len(self.steps) - 1)

    def add(self, left: Value, right: Value, *labels: str) -> Value:
        """Derive `left + right`."""
        return self._derive(left, "+", right, left.number + right.number, labels)

    def subtract(self, left: Value, right: Value, *labels: str) -> Value:
        """Derive `left - right`; rejected unless positive."""
        return self._derive(left, "-", right, left.number - right.number, labels)

    def multiply(self, left: Value, right: Value, *labels: str) -> Value:
        """Derive `left * right`."""
        return self._derive(left, "*", right, left.number * right.number, labels)

    def divide(self, left: Value, right: Value, *labels: str) -> Value:
        """Derive `left / right`; rejected unless whole."""
        if right.number == 0 or left.number % right.number:
            raise RejectedDrawError
        return self._derive(left, "/", right, left.number // right.number, labels)

    def total(self, values: Sequence[Value], partial: str, *labels: str) -> Value:
        """Derive the sum of two or more values, added up in a random order."""
        order = self.rng.sample(list(values), len(values))
        result = order[0]
        for value in order[1:-1]:
            result = self.add(result, value, partial)
        return self.add(result, order[-1], *labels)

    def percent(self, whole: Value, share: Value, *labels: str) -> Value:
        """Derive `share` percent of the whole, in two steps."""
        product = self.multiply(whole, share, f"{whole} times {share}")
        return self.divide(product, Value(100), *labels)

    # --- writing -------------------------------------------------------------------------------

    def prompt_text(self) -> str:
        """The facts and the question."""
        return " ".join([*self.facts, self.question])

    def solution_lines(self) -> list[str]:
        """The steps in a random valid order, each in a random wording."""
        if not MIN_OPERATIONS <= len(self.steps) <= MAX_OPERATIONS:
            raise RejectedDrawError
        waiting = list(range(len(self.steps)))
        written: set[int] = set()
        lines: list[str] = []
        while waiting:
            ready = [i for i in waiting if self._inputs(i) <= written]
            index = self.rng.choice(ready)
            waiting.remove(index)
            written.add(index)
            lines.append(self._line(self.steps[index]))
        return lines

    def _inputs(self, index: int) -> set[int]:
        step = self.steps[index]
        return {value.step for value in (step.left, step.right) if value.step is not None}

    def _line(self, step: StoryStep) -> str:
        left, right = step.left.number, step.right.number
        if step.symbol in "+*" and self.rng.random() < 0.5:
            left, right = right, left
        label = self.rng.choice(step.labels)
        expression = f"{left} {step.symbol} {right} = {step.result}"
        form = self.rng.choice(STEP_FORMS)
        return form.format(l=label, L=label[0].upper() + label[1:], e=expression)


Template = Callable[[Story], None]
"""Writes one problem into the story; the last step's result is the answer."""
