"""The demo's example of a step that was caught."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

import stet
from stet.bundled import generate, parse_answer
from stet.cli.demo_step import caught_step
from stet.policies import SpecGuard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def solved():
    """Problems with SpecGuard's answers and the draft's."""
    pair = stet.load_pair(compile=False)
    tasks = generate("stories", "calibration", 24, seed=5)
    prompts = [task.prompt for task in tasks]
    answers = pair.generate(prompts, SpecGuard.bundled())
    return tasks, answers, pair.generate(prompts, "draft")


def test_a_caught_step_is_shown_with_what_was_thought_of_it(solved):
    tasks, answers, drafts = solved
    panel = caught_step(tasks, answers, drafts)
    assert panel is not None
    console = Console(width=90, record=True, file=StringIO())
    console.print(panel)
    shown = console.export_text()
    for told in (
        "draft ",
        "target ",
        "accepted from",
        "sum_logprob",
        "steps are the draft's; right",
    ):
        assert told in shown
    chosen = next(t for t in tasks if t.text[:30] in shown)
    answer = answers[tasks.index(chosen)]
    assert parse_answer(answer.text) == chosen.answer
    # The whole answer is there, no line of it twice.
    lines = [line.strip("│ ") for line in shown.splitlines()]
    for line in answer.text.splitlines():
        assert sum(line in each for each in lines) == 1


def test_without_a_caught_step_nothing_is_shown(solved):
    tasks, answers, drafts = solved
    wrong = [replace(task, answer=-1) for task in tasks]
    assert caught_step(wrong, answers, drafts) is None
    assert caught_step(tasks, drafts, drafts) is None
