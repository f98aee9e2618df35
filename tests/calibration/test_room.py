"""What becomes of problems that a pair cannot take as they are."""

from dataclasses import replace

import pytest

from stet.arbiter import Arbiter, Network
from stet.calibration.labels import ByStep, Label, Proposal
from stet.calibration.rollouts import Prefix, Rollouts, prompt_of, with_room
from stet.core.errors import OptionError, StetError
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.training.rollout_policy import RolloutPolicy, roll_out


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


def size(prefix):
    return len(prefix.prompt) + len(prefix.written)


def test_rollouts_go_on_to_the_end_of_the_context_and_no_further(wide, task):
    prefixes = begun(wide, task, 4)
    expected = Rollouts(wide, task.grader, 200).sound(prefixes)
    sound = [p for p, right in zip(prefixes, expected, strict=True) if right]
    longest = max(sound, key=size)
    # There is room for what is missing but the end, not for a coarse portion of 64.
    narrow = load_pair(compile=False, max_batch=8, max_length=size(longest) + 3)
    assert Rollouts(narrow, task.grader, 200).sound(sound) == [True] * len(sound)
    # And where there is none at all, what is written is judged as it is.
    full = load_pair(compile=False, max_batch=8, max_length=size(longest))
    assert Rollouts(full, task.grader, 200).sound([longest]) == [False]
    (whole,) = [p for p in begun(wide, task, 1) if p.prompt == longest.prompt]
    full = load_pair(compile=False, max_batch=8, max_length=size(whole))
    assert Rollouts(full, task.grader, 200).sound([whole]) == [True]


def test_steps_are_compared_with_the_targets_to_the_end_of_the_context(wide, task):
    prefixes, whole = begun(wide, task, 4), begun(wide, task, 1)
    narrow = load_pair(compile=False, max_batch=8, max_length=max(map(size, whole)))
    own, others = [], []
    for prefix, answer in zip(prefixes, whole, strict=True):
        last = answer.written[len(prefix.written) :]
        own.append(Proposal(prefix, last, wide.tokenizer.decode(list(last))))
        others.append(Proposal(prefix, (1, 2, 3), "no such step\n"))
    for pair in (wide, narrow):
        assert ByStep(pair, "\n").label(own) == [Label(True)] * len(own)
        assert ByStep(pair, "\n").label(others) == [Label(False)] * len(others)


def test_questions_without_room_for_an_answer_are_left_out_and_said_to_be(wide, task):
    lengths = sorted(len(prompt_of(wide, task, q)) for q in task.questions)
    edge = max(length for length in lengths if length < lengths[-1])
    narrow = load_pair(compile=False, max_length=edge + task.max_new_tokens)
    found = with_room(narrow, task)
    count = sum(length <= edge for length in lengths)
    assert len(found.questions) == count
    assert f"{len(lengths) - count} of {len(lengths)} questions were left out" in found.note
    assert with_room(narrow, found) == found
    assert with_room(wide, task) is task
    with pytest.raises(OptionError, match=r"6 of 6 questions are too long: .*larger max_length"):
        with_room(narrow, replace(task, max_new_tokens=narrow.max_length))


def test_a_task_that_does_not_suit_the_pair_is_refused(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    plain = load_task(str(path), grader="number")
    pair = load_pair(compile=False)  # whose tokenizer has a chat template
    suited = plain.suited(pair)
    assert plain.chat is None
    assert suited.chat is not None
    assert prompt_of(pair, suited, suited.questions[0])
    with pytest.raises(StetError, match="not suited to this pair"):
        prompt_of(pair, plain, plain.questions[0])
    blind = Arbiter(Network(2), ("target_target", "draft_draft"))
    with pytest.raises(StetError, match="not suited to this pair"):
        roll_out(pair, plain, [0], RolloutPolicy(blind, 1.0))
