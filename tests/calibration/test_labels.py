"""When a step is good: by the answer it leads to, by samples of it, or by the target's own step."""

import pytest

from calibration.fakes import ScriptedPair, letters
from stet.calibration.labels import (
    ByAnswer,
    ByStep,
    Label,
    LabellingByAnswer,
    LabellingByStep,
    Proposal,
)
from stet.calibration.rollouts import Prefix, Rolling, Rollouts
from stet.evaluation.graders import resolve_grader

GRADER = resolve_grader("answer-line")


def proposal(before: str, step: str) -> Proposal:
    return Proposal(Prefix(letters("?"), letters(before), "7"), letters(step), step)


def test_by_answer_blames_no_step_after_what_is_lost():
    def writes(text, _):
        return "Answer: 8" if "x" in text else "Answer: 7"

    labeller = ByAnswer(Rollouts(ScriptedPair(writes), GRADER, 64))
    proposals = [proposal("\n", "a\n"), proposal("a\n", "x\n"), proposal("x\n", "b\n")]
    assert labeller.label(proposals) == [Label(True), Label(False), Label(None)]


def test_by_answer_a_step_may_save_what_the_target_would_lose():
    def writes(text, _):
        return "Answer: 7" if "key\n" in text else "Answer: 8"

    labeller = ByAnswer(Rollouts(ScriptedPair(writes), GRADER, 64))
    proposals = [proposal("\n", "a\n"), proposal("\na\n", "key\n"), proposal("key\n", "b\n")]
    assert labeller.label(proposals) == [Label(None), Label(True, saves=True), Label(True)]


@pytest.mark.parametrize(("right", "good"), [(0, False), (1, False), (2, True), (4, True)])
def test_of_sampled_completions_half_must_come_out_right(right, good):
    """The beginning itself is sound; after the step so many of four completions are right."""

    def writes(text, before):
        return "Answer: 7" if "a" not in text or before < right else "Answer: 8"

    pair = ScriptedPair(writes)
    labeller = ByAnswer(Rollouts(pair, GRADER, 64, samples=4, seed=3))
    assert labeller.label([proposal("\n", "a\n")]) == [Label(good)]
    assert len(pair.asked) == 8
    assert {o["temperature"] for o in pair.options} == {1.0}
    seeds = [o["seed"] for o in pair.options]
    every = [seed for asked in seeds for seed in asked]
    assert len(set(every)) == len(every)  # no two completions share their randomness


@pytest.mark.parametrize(
    ("own", "step", "good"),
    [
        ("Add 2 and 3.\nThen more", "Add 2 and 3.\n", True),
        ("\n add  2 AND 3.\nThen", "Add 2 and 3.\n", True),  # but for case and white space
        ("Add 2 and 4.\n", "Add 2 and 3.\n", False),
        ("Add 2 and 3", "Add 2 and 3.\n", False),
        ("Add 2 and 3. Then on and on without end", "Add 2 and 3.\n", False),
        ("Answer: 7", "Answer: 7|", True),  # the end of the answer
        ("Answer: 7\n", "Answer: 7|", True),
        ("Answer: 7\nor 8", "Answer: 7|", False),
        ("Answer: 78", "Answer: 7", True),  # cut off at its limit: so far the same
    ],
)
def test_by_step_the_target_writes_the_same(own, step, good):
    pair = ScriptedPair(lambda text, _: own)
    tokens = letters(step.removesuffix("|")) + ((0,) if step.endswith("|") else ())
    before = Prefix(letters("?"), letters("ab\n"), "")
    assert ByStep(pair, "\n").label([Proposal(before, tokens, step.removesuffix("|"))]) == [
        Label(good)
    ]
    assert pair.asked == ["?ab\n"]


def test_by_step_every_step_has_a_label():
    """Also after one that the target would not have written: every step is judged where it is."""

    def writes(text, _):
        return {"?": "a\n", "?b\n": "a long step of its own, longer than the other\n"}[text]

    pair = ScriptedPair(writes)
    long = "a long step of its own, longer than the other\n"
    labels = ByStep(pair, "\n").label([proposal("", "b\n"), proposal("b\n", long)])
    assert labels == [Label(False), Label(True)]
    assert len({o["max_new_tokens"] for o in pair.options}) == 2


def test_labelled_steps_go_on_behind_what_a_crash_cut_short(tmp_path):
    from stet.calibration import samples
    from stet.core.errors import FileError
    from stet.core.writing import drop_torn_line

    path = tmp_path / "steps.jsonl"
    first, second = (samples.ProblemSample(f"q\u2028{n}", True) for n in range(2))
    samples.append(path, [first, second])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)
    assert samples.read(path) == [first]
    drop_torn_line(path)
    samples.append(path, [second])
    assert samples.read(path) == [first, second]
    path.write_bytes(path.read_bytes().replace(b"true", b"tr\xffe", 1))
    with pytest.raises(FileError, match="line 1: not a calibration sample"):
        samples.read(path)


def test_how_steps_are_labelled_is_said_in_words_and_goes_to_whoever_has_the_pair():
    pair = ScriptedPair(lambda *_: "")
    greedy, sampled = (LabellingByAnswer(Rolling(GRADER, 64, samples=n)) for n in (0, 4))
    assert "greedy completion" in greedy.words
    assert "at least half of 4 sampled" in sampled.words
    made = sampled.of(pair, 8)
    assert made.rollouts.pair is pair
    assert (made.rollouts.grader, made.rollouts.samples) == (GRADER, 4)
    by_step = LabellingByStep("\n")
    assert "the same step" in by_step.words
    assert by_step.of(pair, 0) == ByStep(pair, "\n")
