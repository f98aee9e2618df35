"""The demo's example of an answer with accepted mismatches."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

import stet
from stet.bundled import generate, parse_answer
from stet.cli import demo_mismatch
from stet.cli.demo_mismatch import accepted_mismatch_answer, find_accepted_mismatch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair():
    return stet.load_pair(compile=False)


@pytest.fixture(scope="module")
def tasks():
    return generate("stories", "calibration", 16, seed=5)


def test_an_accepted_mismatch_is_shown_with_what_was_thought_of_it(pair, tasks):
    """The draft's wrong answers stand in for a target's: they are not hard to find."""
    prompts = [task.prompt for task in tasks]
    answers, alone = pair.generate(prompts, "cospec"), pair.generate(prompts, "draft")
    found = find_accepted_mismatch(pair, tasks, answers, alone)
    assert found is not None
    assert not found.picked
    assert parse_answer(found.result.text) == found.task.answer != parse_answer(found.alone.text)
    console = Console(width=100, record=True, file=StringIO())
    console.print(accepted_mismatch_answer(found))
    shown = console.export_text()
    stood = [d for b in found.result.trace.blocks for d in b.mismatches if d.accepted]
    assert shown.count("arbiter 0.") == len(stood)
    for mismatch in stood:
        assert f"arbiter {mismatch.score:.2f}" in shown
    assert f"right: {found.task.answer}" in shown
    assert "picked" not in shown


def test_where_the_demo_s_problems_have_none_one_was_picked(pair, tasks):
    nothing = find_accepted_mismatch(pair, [], [], [])
    assert nothing is not None
    assert nothing.picked
    assert parse_answer(nothing.result.text) == nothing.task.answer
    assert parse_answer(nothing.alone.text) != nothing.task.answer


def test_a_picked_problem_that_shows_nothing_is_not_shown(pair, tasks, monkeypatch):
    monkeypatch.setattr("stet.bundled.generate", lambda *_: [replace(tasks[0], answer=-1)])
    monkeypatch.setattr(demo_mismatch, "PICKED", 0)
    assert find_accepted_mismatch(pair, [], [], []) is None
