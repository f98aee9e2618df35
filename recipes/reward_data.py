"""Labelled steps: what the draft writes, with where each solution first goes wrong.

A step is *good* while the target, writing on greedily from it, still gets the right answer. A
solution that ends right is taken as good throughout. In one that ends wrong the first bad step is
found by halving, two or three completions of the target each. There the target writes the step,
the draft goes on, and what follows is labelled likewise: the same prefixes that a policy will see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import stet.bundled as bundled
from stet.core.reading import json_of, lines_of
from stet.core.steps import StepReader, ends_of
from stet.core.writing import append_lines, json_line, write_text
from stet.pair import Pair
from stet.requests.options import PINNED
from stet.requests.seeds import mixed

MAX_NEW = 256
ROUNDS = 3
"""How often the target helps out in one solution at most."""

TEMPERATURES = (0.0, 0.7)
"""Temperatures of the draft, in turn; greedy and sampled steps fail differently."""


@dataclass(frozen=True)
class Step:
    """A step of a solution.

    Attributes:
        text: with the line break that ends it.
        draft: whether the draft wrote it; otherwise the target.
        good: whether the target still gets to the right answer from here.
    """

    text: str
    draft: bool
    good: bool


@dataclass(frozen=True)
class Example:
    """A problem with labelled solutions.

    Attributes:
        problem: its number in the stream of its family.
        family: of the problem.
        prompt: as the models are asked it.
        solutions: each a list of steps.
    """

    problem: int
    family: str
    prompt: str
    solutions: list[list[Step]]


@dataclass
class Walk:
    """A solution in the making.

    Attributes:
        number: of the problem.
        problem: what is solved.
        prompt: its tokens.
        settled: tokens of every step so far, with whether the draft wrote it.
        rest: tokens of the steps that the draft added last.
        low: so many of the new steps are good; -1 where the target is lost from the start.
        high: so many of them are known to be bad.
        completion: the target's text from the last prefix that is known to be good.
    """

    number: int
    problem: Any
    prompt: list[int]
    settled: list[tuple[list[int], bool]] = field(default_factory=list)
    rest: list[list[int]] = field(default_factory=list)
    low: int = 0
    high: int = 0
    completion: list[int] = field(default_factory=list)

    def prefix(self, count: int) -> list[int]:
        """Tokens of prompt, settled steps and so many of the new ones."""
        parts = [self.prompt, *(ids for ids, _ in self.settled), *self.rest[:count]]
        return [token for part in parts for token in part]


class Labeller:
    """Makes examples with a pair.

    Args:
        pair: writes and finishes solutions.
        seed: of the draft's samples.
    """

    def __init__(self, pair: Pair, seed: int = 0) -> None:
        self.pair, self.seed = pair, seed
        self.tokenizer = pair.tokenizer
        self.ends = ends_of("\n")

    def label(self, numbered: Sequence[tuple[int, Any]]) -> list[Example]:
        """Solve problems and label the steps."""
        walks = [Walk(i, p, self.tokenizer(p.prompt)["input_ids"]) for i, p in numbered]
        solutions: dict[int, list[list[Step]]] = {id(walk): [] for walk in walks}
        temperature = {
            id(walk): TEMPERATURES[number % len(TEMPERATURES)]
            for walk, (number, _) in zip(walks, numbered, strict=True)
        }
        active = walks
        for turn in range(ROUNDS + 1):
            for heat in TEMPERATURES:
                group = [walk for walk in active if temperature[id(walk)] == heat]
                self._draft(group, heat, turn)
            wrong = []
            for walk in active:
                if self._right(walk, len(walk.rest)):
                    solutions[id(walk)].append(self._steps(walk, len(walk.rest)))
                else:
                    wrong.append(walk)
            self._search(wrong)
            # Where the target is lost from the start, no step is to blame.
            active = [walk for walk in wrong if walk.low >= 0]
            for walk in active:
                solutions[id(walk)].append(self._steps(walk, walk.low))
                if turn == ROUNDS:
                    solutions[id(walk)].append(self._rewrite(walk, whole=True))
                else:
                    self._rewrite(walk)
        return [
            Example(number, p.family, p.prompt, solutions[id(walk)])
            for walk, (number, p) in zip(walks, numbered, strict=True)
            if solutions[id(walk)]
        ]

    def _draft(self, walks: Sequence[Walk], temperature: float, turn: int) -> None:
        if not walks:
            return
        prompts = [walk.prefix(0) for walk in walks]
        seed = [mixed(self.seed, turn, walk.number) for walk in walks]
        results = self.pair.generate(
            prompts,
            "draft",
            max_new_tokens=MAX_NEW,
            temperature=temperature,
            seed=seed,
            **PINNED,
        )
        for walk, result in zip(walks, results, strict=True):
            walk.rest = self._split(result.token_ids)
            walk.low, walk.high, walk.completion = 0, len(walk.rest), []

    def _search(self, walks: Sequence[Walk]) -> None:
        """Find the last prefix from which the target still gets it right; `low` is its length."""
        for walk in walks:
            walk.low = 0
        while searched := [w for w in walks if w.high - w.low > 1]:
            self._try(searched, [(w.low + w.high) // 2 for w in searched])
        # Where the first step is bad already, the bare problem was not tried yet.
        self._try([w for w in walks if not w.completion], None)

    def _try(self, walks: Sequence[Walk], counts: Sequence[int] | None) -> None:
        """Let the target finish each walk's first `counts` new steps, or none of them."""
        chosen = counts or [0] * len(walks)
        prompts = [w.prefix(k) for w, k in zip(walks, chosen, strict=True)]
        results = self.pair.generate(prompts, "exact", max_new_tokens=MAX_NEW, **PINNED)
        for walk, count, result in zip(walks, chosen, results, strict=True):
            if self._answers(walk, walk.rest[:count], result.token_ids):
                walk.low, walk.completion = count, result.token_ids
            elif count:
                walk.high = count
            else:
                walk.low = -1

    def _rewrite(self, walk: Walk, whole: bool = False) -> list[Step]:
        """Let the target write the step that was bad, or all that follows."""
        written = self._split(walk.completion)
        walk.settled += [(ids, True) for ids in walk.rest[: walk.low]]
        walk.settled += [(ids, False) for ids in (written if whole else written[:1])]
        walk.rest, walk.completion = [], []
        return self._steps(walk, 0)

    def _steps(self, walk: Walk, good: int) -> list[Step]:
        settled = [Step(self._text(ids), draft, True) for ids, draft in walk.settled]
        new = [Step(self._text(ids), True, i < good) for i, ids in enumerate(walk.rest)]
        return settled + new

    def _split(self, tokens: Sequence[int]) -> list[list[int]]:
        steps: list[list[int]] = []
        rest = list(tokens)
        while rest:
            reader = StepReader(self.tokenizer, self.ends, len(rest))
            length = reader.read(rest) or len(rest)
            steps.append(rest[:length])
            rest = rest[length:]
        # The end of the text is no step of its own.
        if len(steps) > 1 and not self._text(steps[-1]).strip():
            steps[-2:] = [steps[-2] + steps[-1]]
        return steps

    def _right(self, walk: Walk, count: int) -> bool:
        return self._answers(walk, walk.rest[:count], [])

    def _answers(self, walk: Walk, steps: Sequence[list[int]], rest: Sequence[int]) -> bool:
        parts = [*(ids for ids, _ in walk.settled), *steps, list(rest)]
        text = self._text([token for part in parts for token in part])
        return bundled.parse_answer(text) == walk.problem.answer

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def numbered(split: str, count: int, stories: float = 0.75) -> list[tuple[int, Any]]:
    """Problems of a split, families mixed as in the pair's own training, with their numbers."""
    wanted = {"stories": round(count * stories)}
    wanted["units"] = count - wanted["stories"]
    streams = {f: list(islice(bundled.iterate(f, split), n)) for f, n in wanted.items()}
    # Evenly mixed, so that any beginning of the list is a fair sample.
    placed = [
        ((place + 0.5) / len(stream), family, problem)
        for family, stream in streams.items()
        for place, problem in enumerate(stream)
    ]
    placed.sort(key=lambda entry: entry[:2])
    return [(number, problem) for number, (_, _, problem) in enumerate(placed)]


def collect(
    pair: Pair,
    path: Path,
    split: str,
    count: int,
    batch: int = 128,
    source: Callable[[str, int], list[tuple[int, Any]]] = numbered,
) -> int:
    """Label problems and append them to a file; goes on where it stopped.

    Args:
        pair: writes and finishes solutions.
        path: the file.
        split: whose problems.
        count: of problems.
        batch: problems at a time.
        source: numbered problems of a split.

    Returns:
        Labelled problems in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = path.with_suffix(".progress")
    done = int(progress.read_text()) if progress.exists() else 0
    problems = source(split, count)
    for start in range(done, count, batch):
        made = Labeller(pair, seed=start).label(problems[start : start + batch])
        append_lines(path, (json_line(asdict(e)) for e in made))
        write_text(progress, str(min(start + batch, count)))
        print(f"{split}: {min(start + batch, count)} of {count}", flush=True)
    return sum(1 for _ in read(path))


def read(path: Path) -> Iterator[Example]:
    """The examples of a file."""
    for number, line in lines_of(path):
        entry = json_of(line, f"{path}, line {number}")
        steps = [[Step(**step) for step in steps] for steps in entry.pop("solutions")]
        yield Example(solutions=steps, **entry)
