"""Grading of texts, and voting where several texts answer one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from stet.core.trace import Counters

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.evaluation.graders.base import Grader


@dataclass(frozen=True)
class Grade:
    """A grader's result for a text.

    Attributes:
        answer: the extracted answer.
        right: whether the answer is right; None where nothing is graded.
    """

    answer: str | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Sampled:
    """A text with its grade."""

    result: Result
    grade: Grade


@dataclass(frozen=True)
class Chosen:
    """The result of a vote over a question's samples.

    Attributes:
        shown: the first sample that gave the chosen answer.
        answer: the chosen answer.
        right: the grade of the chosen answer.
        counters: counters of all samples together.
        signals: signals of the shown sample.
        votes: samples per answer; empty where there was no vote.
    """

    shown: Result
    answer: str | None
    right: bool | None
    counters: Counters
    signals: dict[str, float] = field(default_factory=dict[str, float])
    votes: dict[str, int] = field(default_factory=dict[str, int])


def grade(result: Result, reference: str | None, grader: Grader | None) -> Grade:
    """Grade one text; the text of a failed request is wrong, whatever it says."""
    if grader is None or reference is None:
        return Grade()
    answer = grader.extract(result.text)
    return Grade(answer, result.error is None and grader.right(answer, reference))


def vote(samples: Sequence[Sampled]) -> Chosen:
    """Choose the most frequent answer; the first of equally frequent ones, None only if all are."""
    counters = Counters()
    for sample in samples:
        counters.add(sample.result.counters)
    given = [s.grade.answer for s in samples if s.grade.answer is not None]
    best = Counter(given).most_common(1)[0][0] if given else None
    winner = next(s for s in samples if s.grade.answer == best)
    return Chosen(
        winner.result,
        best,
        winner.grade.right,
        counters,
        signals(winner.result),
        dict(Counter(given)) if len(samples) > 1 else {},
    )


def signals(result: Result) -> dict[str, float]:
    """Signals of an answer from its trace, where probabilities were recorded."""
    found: dict[str, float] = {}
    for name in ("target", "draft"):
        probabilities = [getattr(token, f"p_{name}") for token in result.tokens]
        known = [p for p in probabilities if p is not None]
        if known:
            found[f"{name} probability, mean"] = fmean(known)
            found[f"{name} probability, lowest"] = min(known)
    return found
