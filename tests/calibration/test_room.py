"""What becomes of problems and beginnings for which the context is nearly too short."""

from dataclasses import replace

import pytest

from stet.calibration.labels import ByStep, Proposal
from stet.calibration.rollouts import Prefix, Rollouts, prompt_of, with_room
from stet.core.errors import OptionError
from stet.evaluation.tasks import load_task
from stet.load import load_pair


@pytest.fixture(scope="module")
def task():
    return load_task("stories", split="calibration", count=6)


@pytest.fixture(scope="module")
def wide():
    return load_pair(compile=False, max_batch=8)


def begun(pair, task, left):
    """The task's first answers, but for their last `left` tokens."""
    prompts = [prompt_of(pair, task, q) for q in task.questions]
    answers = pair.generate([list(p) for p in prompts], "target", max_new_tokens=200)
    return [
        Prefix(prompt, tuple(answer.token_ids[:-left]), question.reference)
        for prompt, answer, question in zip(prompts, answers, task.questions, strict=True)
    ]


def test_rollouts_go_on_to_the_end_of_the_context_and_no_further(wide, task):
    prefixes = begun(wide, task, 3)
    longest = max(len(p.prompt) + len(p.written) for p in prefixes)
    # There is room for the three tokens that are missing, not for a coarse portion of 64.
    narrow = load_pair(compile=False, max_batch=8, max_length=longest + 3)
    expected = Rollouts(wide, task.grader, 200).sound(prefixes)
    assert True in expected
    assert Rollouts(narrow, task.grader, 200).sound(prefixes) == expected
    # And where there is none at all, what is written is judged as it is.
    full = load_pair(compile=False, max_batch=8, max_length=longest)
    (fullest,) = [p for p in prefixes if len(p.prompt) + len(p.written) == longest][:1]
    assert Rollouts(full, task.grader, 200).sound([fullest]) in ([True], [False])


def test_steps_are_compared_with_the_targets_to_the_end_of_the_context(wide, task):
    prefixes = begun(wide, task, 4)
    proposals = [Proposal(p, (1, 2, 3), "no such step\n") for p in prefixes]
    longest = max(len(p.prompt) + len(p.written) for p in prefixes)
    narrow = load_pair(compile=False, max_batch=8, max_length=longest + 3)
    assert ByStep(narrow, "\n").label(proposals) == [False] * len(proposals)


def test_questions_without_room_for_an_answer_are_left_out_and_said_to_be(wide, task):
    lengths = sorted(len(prompt_of(wide, task, q)) for q in task.questions)
    assert lengths[0] < lengths[-1]
    narrow = load_pair(compile=False, max_length=lengths[-1] - 1 + task.max_new_tokens)
    found = with_room(narrow, task)
    count = sum(length < lengths[-1] for length in lengths)
    assert len(found.questions) == count
    assert f"{len(lengths) - count} of {len(lengths)} questions were left out" in found.note
    assert with_room(narrow, found) == found
    assert with_room(wide, task) is task
    with pytest.raises(OptionError, match=r"6 of 6 questions are too long: .*larger max_length"):
        with_room(narrow, replace(task, max_new_tokens=narrow.max_length))
