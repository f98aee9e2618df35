"""Many problems solved under every threshold of a grid, with the losses that a bound is about.

Greedy runs of neighbouring thresholds are alike up to the first step on which they decide
differently, so only the strictest is run whole. From then on each threshold follows the run above
it for as long as both decide alike, and is run from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stet.calibration.risk import Solution, first_errors
from stet.calibration.rollouts import Rollouts, prompt_of
from stet.core.reading import json_lines
from stet.core.result import Result
from stet.core.steps import LoopGuard
from stet.core.writing import append_lines, drop_torn_line, json_line
from stet.evaluation.tasks.base import LoadedTask, Question
from stet.pair import Pair
from stet.policies import SpecGuard
from stet.requests.options import PINNED


@dataclass(frozen=True)
class Outcome:
    """The outcome of a threshold on a problem.

    Attributes:
        right: whether the answer was.
        lost: whether the first error is an accepted step of the draft.
        steps: of the answer.
        kept: how many of them are accepted steps of the draft.
        tainted: accepted steps from the first error on, where one is known.
    """

    right: bool
    lost: bool
    steps: int
    kept: int
    tainted: int


@dataclass(frozen=True)
class Taken:
    """A step of a run: its start, its text, the draft's proposal, and whether that was accepted."""

    position: int
    tokens: tuple[int, ...]
    candidate: tuple[int, ...]
    score: float
    accepted: bool

    @property
    def end(self) -> int:
        return self.position + len(self.tokens)


@dataclass(frozen=True)
class Walk:
    """A whole run under one threshold."""

    steps: tuple[Taken, ...]
    finish: str

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for step in self.steps for token in step.tokens)


class Pool:
    """Solves problems and records the outcomes.

    Args:
        pair: the models.
        task: the problems.
        policy: calibrated, one greedy candidate; its threshold is set here.
        thresholds: the grid, fixed beforehand.
        batch: problems at a time.
    """

    def __init__(
        self,
        pair: Pair,
        task: LoadedTask,
        policy: SpecGuard,
        thresholds: Sequence[float],
        batch: int,
    ) -> None:
        assert task.grader is not None
        assert policy.candidates == policy.target_candidates == 1
        assert policy.lower is None
        self.pair, self.task, self.policy, self.batch = pair, task, policy, batch
        self.thresholds = sorted(thresholds)
        self.runs = 0

    def solve(self, path: Path) -> Iterator[int]:
        """Solve what is not in the file yet, portion by portion; gives how many are done."""
        done = {line["problem"] for line in read(path)}
        waiting = [q for q in self.task.questions if q.id not in done]
        for start in range(0, len(waiting), self.batch):
            portion = waiting[start : start + self.batch]
            lines = self._solve(portion)
            append_lines(path, map(json_line, lines))
            yield len(done) + start + len(portion)

    def _solve(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        prompts = [prompt_of(self.pair, self.task, q) for q in questions]
        by_threshold = self.walks(prompts)
        assert self.task.grader is not None
        rollouts = Rollouts(self.pair, self.task.grader, self.task.max_new_tokens, self.task.stop)
        lines: list[dict[str, Any]] = [{"problem": q.id, "outcomes": []} for q in questions]
        for threshold in self.thresholds:
            walks = by_threshold[threshold]
            right = [self._right(w, q) for w, q in zip(walks, questions, strict=True)]
            wrong = [i for i, ok in enumerate(right) if not ok]
            solutions = [
                _solution(walks[i], prompts[i], questions[i].reference or "") for i in wrong
            ]
            errors = dict(zip(wrong, first_errors(solutions, rollouts), strict=True))
            for i, walk in enumerate(walks):
                lines[i]["outcomes"].append(asdict(_outcome(walk, right[i], errors.get(i))))
        return lines

    def walks(self, prompts: Sequence[tuple[int, ...]]) -> dict[float, list[Walk]]:
        """The run of every prompt under every threshold."""
        # What is cut short once it must be rejected may be accepted at a lower threshold.
        policy = replace(self.policy, threshold=self.thresholds[-1], whole=True)
        walks = self._run([list(p) for p in prompts], policy)
        found = {policy.threshold: walks}
        for threshold in reversed(self.thresholds[:-1]):
            policy = replace(policy, threshold=threshold)
            walks = found[threshold] = self._follow_all(prompts, walks, policy)
        return found

    def unlike(self, questions: Sequence[Question]) -> int:
        """Runs that come out differently when each threshold is run by itself from the start."""
        prompts = [prompt_of(self.pair, self.task, q) for q in questions]
        differing = 0
        for threshold, walks in self.walks(prompts).items():
            policy = replace(self.policy, threshold=threshold)
            whole = self._run([list(p) for p in prompts], policy)
            differing += sum(
                (a.tokens, [s.accepted for s in a.steps])
                != (b.tokens, [s.accepted for s in b.steps])
                for a, b in zip(walks, whole, strict=True)
            )
        return differing

    def _follow_all(
        self, prompts: Sequence[tuple[int, ...]], stricter: Sequence[Walk], policy: SpecGuard
    ) -> list[Walk]:
        """The runs under a threshold, given those under a stricter one."""
        walks: list[Walk] = [follow(walk, policy.threshold) for walk in stricter]
        ends = self.pair.end_tokens
        parted = [
            i
            for i, walk in enumerate(walks)
            if walk.finish == "parted" and walk.tokens[-1] not in ends
        ]
        tails = self._run([[*prompts[i], *walks[i].tokens] for i in parted], policy)
        for i, tail in zip(parted, tails, strict=True):
            walks[i] = _joined(walks[i], tail)
        walks = [replace(w, finish="stop") if w.finish == "parted" else w for w in walks]
        # A tail does not know how long its beginning is, nor what that said.
        strange = [i for i in parted if self._is_strange(walks[i])]
        again = self._run([list(prompts[i]) for i in strange], policy)
        for i, walk in zip(strange, again, strict=True):
            walks[i] = walk
        return walks

    def _run(self, prompts: list[list[int]], policy: SpecGuard) -> list[Walk]:
        if not prompts:
            return []
        self.runs += len(prompts)
        options: dict[str, Any] = {
            "max_new_tokens": self.task.max_new_tokens,
            "stop": list(self.task.stop),
        }
        results = self.pair.generate(prompts, policy, **PINNED, **options)
        for result in results:
            if result.error is not None:
                raise RuntimeError(result.error)
        return [_walk(result) for result in results]

    def _is_strange(self, walk: Walk) -> bool:
        guard = LoopGuard()
        decode = self.pair.tokenizer.decode
        circles = [guard.push(decode(list(s.tokens), skip_special_tokens=True)) for s in walk.steps]
        return walk.finish != "stop" or len(walk.tokens) > self.task.max_new_tokens or any(circles)

    def _right(self, walk: Walk, question: Question) -> bool:
        grader = self.task.grader
        assert grader is not None
        text = self.pair.tokenizer.decode(list(walk.tokens), skip_special_tokens=True)
        return grader.right(grader.extract(text), question.reference or "")


def follow(walk: Walk, threshold: float) -> Walk:
    """The steps that a run under a lower threshold shares; "parted" where it goes on alone.

    Where the target wrote the very step that the draft had proposed, accepting it changes no text.
    """
    steps: list[Taken] = []
    for step in walk.steps:
        accepted = step.score >= threshold
        if accepted and not step.accepted and step.candidate != step.tokens:
            steps.append(replace(step, tokens=step.candidate, accepted=True))
            return Walk(tuple(steps), "parted")
        steps.append(replace(step, accepted=accepted))
    return Walk(tuple(steps), walk.finish)


def read(path: Path) -> list[dict[str, Any]]:
    """The finished problems of a file."""
    drop_torn_line(path)
    return json_lines(path) if path.exists() else []


def _walk(result: Result) -> Walk:
    ids = result.token_ids
    steps = [
        Taken(
            s.position,
            tuple(ids[s.position : s.position + s.tokens]),
            tuple(s.candidates[s.chosen].ids),
            s.score if s.score is not None else 0.0,
            s.decision == "accepted",
        )
        for s in result.trace.steps
    ]
    return Walk(tuple(steps), result.finish_reason)


def _joined(head: Walk, tail: Walk) -> Walk:
    offset = len(head.tokens)
    moved = tuple(replace(s, position=s.position + offset) for s in tail.steps)
    return Walk(head.steps + moved, tail.finish)


def _solution(walk: Walk, prompt: tuple[int, ...], reference: str) -> Solution:
    return Solution(
        prompt,
        walk.tokens,
        tuple(s.end for s in walk.steps),
        tuple(s.accepted for s in walk.steps),
        reference,
    )


def _outcome(walk: Walk, right: bool, error: int | None) -> Outcome:
    return Outcome(
        right=right,
        lost=error is not None and walk.steps[error].accepted,
        steps=len(walk.steps),
        kept=sum(s.accepted for s in walk.steps),
        tainted=0 if error is None else sum(s.accepted for s in walk.steps[error:]),
    )
