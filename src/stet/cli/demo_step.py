"""The demo's example of a rejected step: the draft's step, its scores, and the rewritten step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.panel import Panel
from rich.text import Text

from stet.core.steps import normalise

if TYPE_CHECKING:
    from stet.bundled import Problem
    from stet.core.result import Result
    from stet.core.trace import StepRecord


def caught_step(
    tasks: Sequence[Problem], results: Sequence[Result], drafts: Sequence[Result]
) -> Panel | None:
    """Find a step of the draft that was rejected and rewritten in an answer that came out right.

    Args:
        tasks: the problems.
        results: a step policy's answers to them.
        drafts: the draft's own answers.

    Returns:
        The example to show: one in which the draft alone was wrong, if there is one. None where no
        step was rewritten with other numbers.
    """
    from stet.bundled import parse_answer

    found: list[tuple[tuple[int, int], Problem, Result, StepRecord]] = []
    for task, result, draft in zip(tasks, results, drafts, strict=True):
        if parse_answer(result.text) != task.answer:
            continue
        fooled = parse_answer(draft.text) != task.answer
        for step in result.trace.steps:
            if step.decision == "rewritten" and _calculates_otherwise(step):
                found.append(((fooled, -len(result.trace.steps)), task, result, step))
    if not found:
        return None
    _, task, result, step = max(found, key=lambda item: item[0])
    return _panel(task, result, step)


def _calculates_otherwise(step: StepRecord) -> bool:
    """Whether the target changed more than the wording: its step has other numbers."""
    proposed = step.candidates[step.chosen].text
    return all(_numbers(proposed) != _numbers(text) for text in step.target_candidates)


def _numbers(text: str) -> list[str]:
    digits = "".join(c if c.isdigit() else " " for c in normalise(text))
    return digits.split()


def _panel(task: Problem, result: Result, step: StepRecord) -> Panel:
    body = Text()
    body.append(f"{task.text}\n\n", style="dim")
    done = "".join(token.text for token in result.tokens[: step.position])
    body.append(done)
    proposed = step.candidates[step.chosen].text.strip("\n")
    body.append("draft   ", style="bold")
    body.append(f"{proposed}\n", style="red")
    for line in _explain(step):
        body.append(f"        {line}\n", style="dim")
    written = step.target_candidates[0].strip("\n")
    body.append("target  ", style="bold")
    body.append(f"{written}\n", style="green")
    span = result.tokens[step.position : step.position + step.tokens]
    body.append(result.text[len(done) + sum(len(token.text) for token in span) :])
    accepted = sum(s.decision == "accepted" for s in result.trace.steps)
    body.append(
        f"\n\n{accepted} of {len(result.trace.steps)} steps are the draft's; right: {task.answer}",
        style="dim",
    )
    return Panel(body, title="One step that was rejected and rewritten", title_align="left")


def _explain(step: StepRecord) -> list[str]:
    """Score, signals and the target's margin of a step, in short lines."""
    told: list[str] = []
    if step.score is not None and step.threshold is not None:
        told.append(f"score {step.score:.2f}, accepted from {step.threshold:.2f}")
    signals = ", ".join(f"{name} {value:.2f}" for name, value in step.normalised.items())
    told += wrap(signals, 64)
    margin = step.signals.get("target_min_margin")
    if margin is not None:
        told.append(f"the target prefers another word, {math.exp(-min(margin, 0.0)):,.0f} to 1")
    return told
