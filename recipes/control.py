"""Problems of the control pair: arithmetic that a target can do, and facts that only a draft knows.

    python recipes/control.py test --count 3000 --seed 0 --out control-0-test.jsonl

A trader counts goods. Between ordinary steps there are lookups: how much a unit, a fee of some
class or a share of some grade is, stands in three tables that the problem does not show. Both
occur inside one answer, so no choice between whole answers can win everything.

- The draft is the expert. It has read many problems that use the tables as they are now, and few
  distinct ones: it knows every entry, and has learned sums by heart that it should have computed.
- The target has read many problems of every kind, in most of which an entry is given with the
  problem. Of the entries that are not given it has often read half as they are now, a quarter as an
  earlier edition had them, and has hardly met the rest.

Tables, numbers and both models' weights hang on the seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from stet.bundled.problems import format_prompt
from stet.bundled.splits import Key, split_of
from stet.bundled.wording import NAMES, THINGS

Kind = Literal["unit", "fee", "share"]
KINDS: tuple[Kind, ...] = ("unit", "fee", "share")
ENTRIES = 60
"""Of each table; a multiple of four."""
LARGEST = 9999

Group = Literal["known", "outdated", "scarce"]
GROUPS: tuple[Group, ...] = ("known", "outdated", "known", "scarce")
"""In turn, the groups of a table's entries."""

Reader = Literal["target", "draft", "asked"]
"""Whose problems: what the target or the draft reads, or what both are asked."""


class Entry(NamedTuple):
    """An entry of a table: its value now and in the earlier edition, and how a target met it."""

    word: str
    value: int
    earlier: int
    group: Group


@dataclass(frozen=True)
class Mix:
    """Shares of what a target reads, and of what both are asked.

    Attributes:
        plain: problems without lookups, of what a target reads.
        asked_plain: the same of what a draft reads and both are asked.
        given: problems with lookups whose entries are told, with any values.
        scarce: how often an entry of the group `scarce` is read, to one of the others.
    """

    plain: float = 0.35
    asked_plain: float = 0.4
    given: float = 0.45
    scarce: float = 0.01


MIX = Mix()


class Problem(NamedTuple):
    """A problem with its reference solution.

    Attributes:
        prompt: as a model reads it.
        text: as a chat user would ask it.
        steps: lines of the solution.
        kinds: of each step: "add", "subtract", "multiply", "divide", or a table's.
        groups: of each step: that of its entry, or "".
        answer: the right answer.
        key: what it is, for the split that it belongs to.
    """

    prompt: str
    text: str
    steps: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    answer: int
    key: Key

    @property
    def family(self) -> str:
        """As problems of the bundled pair have one."""
        return "control"

    @property
    def solution(self) -> str:
        """The steps and the answer line, as a model should write them."""
        return "\n".join([*self.steps, f"Answer: {self.answer}"])


def tables_of(seed: int) -> dict[Kind, tuple[Entry, ...]]:
    """The three tables of a seed."""
    rng = random.Random(f"stet/control/tables/{seed}")
    words = sorted(
        a + v + b + w + e
        for a in "bdfgklmnprstvz"
        for v in "aeiou"
        for b in "lrndkmz"
        for w in "aeiou"
        for e in "lmnrsktx"
    )
    chosen = iter(rng.sample(words, ENTRIES * len(KINDS)))
    found: dict[Kind, tuple[Entry, ...]] = {}
    for kind in KINDS:
        entries: list[Entry] = []
        for number in range(ENTRIES):
            value = rng.randint(11, 99)
            earlier = rng.choice([other for other in range(11, 100) if other != value])
            entries.append(Entry(next(chosen), value, earlier, GROUPS[number % len(GROUPS)]))
        found[kind] = tuple(entries)
    return found


class RejectedDrawError(Exception):
    """The numbers drawn make no valid problem; the caller draws again."""


class Draft:
    """A problem while it is being written."""

    def __init__(self, rng: random.Random, tables: dict[Kind, tuple[Entry, ...]]) -> None:
        self.rng, self.tables = rng, tables
        self.facts: list[str] = []
        self.told: list[str] = []
        self.steps: list[str] = []
        self.kinds: list[str] = []
        self.groups: list[str] = []
        self.numbers: list[int] = []
        self.thing = rng.choice(THINGS)
        self.total = 0

    def given(self, low: int, high: int) -> int:
        """Draw a number that is told."""
        number = self.rng.randint(low, high)
        self.numbers.append(number)
        return number

    def say(self, *wordings: str) -> None:
        """Tell a fact, in one of these wordings."""
        self.facts.append(self.rng.choice(wordings))

    def step(self, kind: str, line: str, group: str = "") -> None:
        """Write a step."""
        self.steps.append(line)
        self.kinds.append(kind)
        self.groups.append(group)

    def derive(self, left: int, sign: str, right: int, label: str) -> int:
        """Write an arithmetic step; its result."""
        whole, rest = divmod(left, right) if sign == "/" else (0, 0)
        result = {"+": left + right, "-": left - right, "*": left * right, "/": whole}[sign]
        if rest or not 0 < result <= LARGEST:
            raise RejectedDrawError
        form = self.rng.choice(("{L}: {e}", "Now {l}: {e}", "We get {l}: {e}"))
        expression = f"{left} {sign} {right} = {result}"
        name = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}[sign]
        self.step(name, form.format(l=label, L=label[0].upper() + label[1:], e=expression))
        return result


def _start(d: Draft) -> None:
    name = d.rng.choice(NAMES)
    d.total = d.given(20, 999)
    d.say(f"{name} has {d.total} {d.thing}.", f"In a store there are {d.total} {d.thing}.")


def _add(d: Draft) -> None:
    n = d.given(12, 999)
    d.say(f"Then {n} more come.", f"{d.rng.choice(NAMES)} brings {n} {d.thing}.")
    d.total = d.derive(d.total, "+", n, d.thing)


def _subtract(d: Draft) -> None:
    n = d.given(12, 999)
    d.say(f"Then {n} are sold.", f"{n} of them get lost.")
    d.total = d.derive(d.total, "-", n, f"{d.thing} left")


def _multiply(d: Draft) -> None:
    n = d.given(3, 19)
    d.say(f"There are {n} such stores.", f"In {n} weeks it is {n} times as many.")
    d.total = d.derive(d.total, "*", n, f"all {d.thing}")


def _divide(d: Draft) -> None:
    whole = [n for n in range(2, 13) if d.total % n == 0]
    if not whole:
        raise RejectedDrawError
    n = d.rng.choice(whole)
    d.numbers.append(n)
    d.say(f"They are shared by {n} people, and one share is kept.", f"One part of {n} is kept.")
    d.total = d.derive(d.total, "/", n, "one part")


ORDINARY = (_add, _subtract, _multiply, _divide)

_FACTS: dict[Kind, tuple[str, ...]] = {
    "unit": ("Then {n} {word}s of {thing} come.", "{n} {word}s of {thing} are added."),
    "fee": ("A fee of class {word} is paid in {thing}.", "The {word} fee is taken."),
    "share": ("Each of {n} helpers gives a {word} share.", "{n} people add a {word} share each."),
}
_STEPS: dict[Kind, tuple[str, ...]] = {
    "unit": ("One {word} is {value}", "A {word}: {value}"),
    "fee": ("The {word} fee is {value}", "Fee {word}: {value}"),
    "share": ("A {word} share is {value}", "Share {word}: {value}"),
}


def _look_up(d: Draft, kind: Kind, entry: Entry, value: int) -> None:
    """Tell of something that takes an entry, and write the steps that it takes."""
    n = 0 if kind == "fee" else d.given(2, 9)
    d.numbers.append(sum(map(ord, entry.word)))
    d.say(*(form.format(n=n, word=entry.word, thing=d.thing) for form in _FACTS[kind]))
    line = d.rng.choice(_STEPS[kind]).format(word=entry.word, value=value)
    d.step(kind, line, entry.group)
    if kind == "fee":
        d.total = d.derive(d.total, "-", value, f"{d.thing} left")
        return
    more = d.derive(n, "*", value, f"{d.thing} more")
    d.total = d.derive(d.total, "+", more, d.thing)


def _told(d: Draft, kind: Kind, entry: Entry) -> int:
    """Tell the value of an entry, which may be any."""
    value = d.given(11, 99)
    name = {"unit": "One {}", "fee": "The {} fee", "share": "A {} share"}[kind]
    d.told.append(f"{name.format(entry.word)} is {value}.")
    return value


def _draw(d: Draft, reader: Reader, mix: Mix) -> None:
    """Write a problem."""
    chance = d.rng.random()
    is_plain = chance < (mix.plain if reader == "target" else mix.asked_plain)
    is_given = reader == "target" and not is_plain and chance < mix.plain + mix.given
    lookups = 0 if is_plain else d.rng.choice((1, 1, 2))
    ordinary = d.rng.randint(2, 4) if is_plain else d.rng.randint(1, 3)
    plan = [True] * lookups + [False] * ordinary
    d.rng.shuffle(plan)
    _start(d)
    used: set[str] = set()
    for looks_up in plan:
        if not looks_up:
            d.rng.choice(ORDINARY)(d)
            continue
        kind = d.rng.choice(KINDS)
        entries = [entry for entry in d.tables[kind] if entry.word not in used]
        weights = [
            mix.scarce if reader == "target" and not is_given and e.group == "scarce" else 1.0
            for e in entries
        ]
        (entry,) = d.rng.choices(entries, weights)
        used.add(entry.word)
        if is_given:
            value = _told(d, kind, entry)
        elif reader == "target" and entry.group == "outdated":
            value = entry.earlier
        else:
            value = entry.value
        _look_up(d, kind, entry, value)


def iterate(
    reader: Reader, split: str, seed: int, *, stream: int = 0, mix: Mix = MIX
) -> Iterator[Problem]:
    """Problems without end and without duplicates.

    Args:
        reader: whose.
        split: as of the bundled problems: of what is asked, one that the models did not read.
        seed: of the tables.
        stream: another one gives other problems, which may overlap within the split.
        mix: of what a target reads.
    """
    tables = tables_of(seed)
    rng = random.Random(f"stet/control/{reader}/{split}/{seed}/{stream}")
    seen: set[Key] = set()
    while True:
        draft = Draft(rng, tables)
        try:
            _draw(draft, reader, mix)
        except RejectedDrawError:
            continue
        key = Key("control", tuple(draft.numbers), tuple(draft.kinds))
        if split_of(key) != split or key in seen:
            continue
        seen.add(key)
        question = draft.rng.choice(
            (f"How many {draft.thing} are there now?", f"How many {draft.thing} is it in the end?")
        )
        text = " ".join([*draft.told, *draft.facts, question])
        yield Problem(
            prompt=format_prompt(text),
            text=text,
            steps=tuple(draft.steps),
            kinds=tuple(draft.kinds),
            groups=tuple(draft.groups),
            answer=draft.total,
            key=key,
        )


def generate(
    reader: Reader, split: str, count: int, seed: int, *, stream: int = 0
) -> list[Problem]:
    """The first `count` problems of `iterate`."""
    return list(islice(iterate(reader, split, seed, stream=stream), count))


def main() -> None:
    """Write problems as a task that commands take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", choices=("policy_train", "calibration", "validation", "test"))
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = [
        json.dumps({"question": problem.text, "answer": str(problem.answer)})
        for problem in generate("asked", options.split, options.count, options.seed)
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
