"""Where the problems come from that models are trained and judged on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, Protocol

import control

from stet.bundled import FAMILIES, iterate


class Text(Protocol):
    """A problem as a model reads it."""

    @property
    def prompt(self) -> str:
        """What is given."""
        ...

    @property
    def solution(self) -> str:
        """What is to be written."""
        ...

    @property
    def answer(self) -> int:
        """The right answer."""
        ...


class Source(Protocol):
    """Problems of one kind; dataclasses, whose fields tell one source from another."""

    def training(self) -> Iterator[Text]:
        """All that is trained on."""
        ...

    def validation(self, count: int) -> Iterator[Text]:
        """Others of the same mix, for the loss."""
        ...

    def asked(self, count: int) -> list[Text]:
        """Others to be answered, for the share that is right."""
        ...

    def words(self) -> Iterator[Text]:
        """What a tokenizer is learned from."""
        ...


@dataclass(frozen=True)
class Bundled:
    """Problems of the bundled pair.

    Attributes:
        problems: distinct ones.
        stories: share of word problems; the rest is of the family `units`.
        templates: only these templates, or all of them.
    """

    problems: int
    stories: float = 0.75
    templates: tuple[str, ...] | None = None

    def training(self) -> Iterator[Text]:
        """All that is trained on."""
        return self._some("pair_train", self.problems)

    def validation(self, count: int) -> Iterator[Text]:
        """Others of the same mix."""
        return self._some("validation", count)

    def asked(self, count: int) -> list[Text]:
        """Word problems, of all templates."""
        return list(islice(iterate("stories", "validation", seed=7), count))

    def words(self) -> Iterator[Text]:
        """Problems of all families."""
        for family in FAMILIES:
            yield from islice(iterate(family, "pair_train", seed=1), 20_000)

    def _some(self, split: str, problems: int) -> Iterator[Text]:
        stories = round(problems * self.stories)
        for family, count in (("stories", stories), ("units", problems - stories)):
            wanted = (
                problem
                for problem in iterate(family, split)
                if self.templates is None or problem.template in self.templates
            )
            yield from islice(wanted, count)


@dataclass(frozen=True)
class Control:
    """Problems of the control pair.

    Attributes:
        problems: distinct ones.
        reader: whose.
        seed: of the tables.
        mix: of what a target reads.
    """

    problems: int
    reader: Literal["target", "draft"]
    seed: int
    mix: control.Mix = control.MIX

    def training(self) -> Iterator[Text]:
        """All that is trained on."""
        problems = control.iterate(self.reader, "pair_train", self.seed, mix=self.mix)
        return islice(problems, self.problems)

    def validation(self, count: int) -> Iterator[Text]:
        """Others of the same mix."""
        problems = control.iterate(self.reader, "validation", self.seed, stream=1, mix=self.mix)
        return islice(problems, count)

    def asked(self, count: int) -> list[Text]:
        """What both models are asked."""
        return list(islice(control.iterate("asked", "validation", self.seed, stream=2), count))

    def words(self) -> Iterator[Text]:
        """Problems of both readers, so that every word of the tables is a token."""
        both = (control.iterate(who, "pair_train", self.seed, stream=3) for who in READERS)
        return chain.from_iterable(islice(problems, 20_000) for problems in both)


READERS: tuple[Literal["target", "draft"], ...] = ("target", "draft")
