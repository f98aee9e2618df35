"""Whose step the first error is, found with no more rollouts than it takes."""

import pytest

from calibration.fakes import ScriptedPair, letters
from stet.calibration.risk import Solution, first_errors, solution_of
from stet.calibration.rollouts import Rollouts
from stet.evaluation.graders import resolve_grader


def rollouts_of(sound: dict[str, bool]) -> tuple[Rollouts, ScriptedPair]:
    """The target gets to the answer 7 from these beginnings, and from no others."""
    pair = ScriptedPair(lambda text, _: "\nAnswer: 7" if sound[text] else "\nAnswer: 8")
    return Rollouts(pair, resolve_grader("answer-line"), 64), pair


def solution(text: str, kept: list[bool]) -> Solution:
    """One letter a step, after the prompt "?"."""
    return Solution(letters("?"), letters(text), tuple(range(1, len(text) + 1)), tuple(kept), "7")


@pytest.mark.parametrize(
    ("sound", "error", "asked"),
    [
        ([True, True, False, False], 1, 3),
        ([True, False, True, False], 0, 2),  # the first error, though it was recovered from
        ([False, False, True, False], 2, 4),  # lost, regained, lost again
        ([False, False, False, False], None, 4),  # the target could not do it at all
        ([True, True, True, True], None, 4),
    ],
)
def test_the_first_error_is_the_first_step_after_which_the_target_gets_lost(sound, error, asked):
    texts = ["?", "?\n", "?\na", "?\nab"]
    rollouts, pair = rollouts_of(dict(zip(texts, sound, strict=True)))
    assert first_errors([solution("\nab", [True] * 3)], rollouts) == [error]
    assert len(pair.asked) == asked


def test_solutions_are_walked_side_by_side_and_leave_when_they_are_done():
    sound = {"?": True, "?a": False, "?b": True, "?bc": False, "?d": True, "?de": True}
    rollouts, pair = rollouts_of({**sound, "?def": True})
    found = first_errors(
        [
            solution("abc", [True, True, True]),
            solution("bcd", [False, False, True]),
            solution("def", [True] * 3),
        ],
        rollouts,
    )
    assert found == [0, 1, None]
    assert "?ab" not in pair.asked  # nothing behind the first error is looked at
    assert pair.asked.count("?") == 1
    assert first_errors([], rollouts) == []


def test_a_trace_is_a_solution():
    trace = {
        "tokens": [{"id": i} for i in (5, 6, 7)],
        "steps": [
            {"position": 0, "tokens": 2, "decision": "accepted"},
            {"position": 2, "tokens": 1, "decision": "rewritten"},
        ],
    }
    found = solution_of(trace, (1, 2), "7")
    assert (found.tokens, found.ends, found.kept) == ((5, 6, 7), (2, 3), (True, False))
    assert [found.before(i).written for i in range(3)] == [(), (5, 6), (5, 6, 7)]
