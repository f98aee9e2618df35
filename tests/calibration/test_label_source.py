"""Without right answers the target's own take their place, and everything says so."""

from dataclasses import replace

import pytest

from calibration.fakes import ScriptedPair
from stet.calibration.choosing import ThresholdPoint, Wish, choose
from stet.calibration.label_source import (
    ANSWERS,
    TARGETS_ANSWER,
    TARGETS_TEXT,
    SameText,
    label_source_of,
    with_own_answers,
)
from stet.calibration.request import CalibrateRequest
from stet.core.errors import OptionError, StetError
from stet.evaluation.graders import resolve_grader
from stet.evaluation.tasks.base import LoadedTask, Question
from stet.policies import SpecGuard

GRADER = resolve_grader("answer-line")


def task(count=3, *, references=True, grader=GRADER) -> LoadedTask:
    questions = [Question(f"q{i}", f"{i}?", str(i) if references else None) for i in range(count)]
    return LoadedTask("made up", questions, grader, 64, (), chat=None)


def test_which_label_source_there_is():
    assert label_source_of(task(), False) is ANSWERS
    assert label_source_of(task(), True) is TARGETS_ANSWER
    assert label_source_of(task(references=False), False) is TARGETS_ANSWER
    assert label_source_of(task(grader=None), False) is TARGETS_TEXT
    assert label_source_of(task(references=False, grader=None), True) is TARGETS_TEXT


def test_the_targets_answers_become_references(tmp_path):
    told = []
    pair = ScriptedPair(lambda text, _: "Hm." if text == "1?" else f"So.\nAnswer: {text[0]}0")
    own = with_own_answers(pair, task(), tmp_path / "own.jsonl", 2, lambda *t: told.append(t))
    # Where there is no answer to be read, nothing can be compared.
    assert [(q.id, q.reference) for q in own.questions] == [("q0", "0"), ("q2", "20")]
    assert told == [("asking the target", 2, 3), ("asking the target", 3, 3)]

    # What a crash cut short is asked again, and nothing else.
    path = tmp_path / "own.jsonl"
    path.write_text(path.read_text()[:-5])
    pair.asked.clear()
    assert with_own_answers(pair, task(), path, 2, lambda *_: None) == own
    assert pair.asked == ["2?"]


def test_without_a_grader_whole_texts_are_compared(tmp_path):
    pair = ScriptedPair(lambda text, _: f"It is\n {text[0]}.")
    bare = task(references=False, grader=None)
    own = with_own_answers(pair, bare, tmp_path / "own.jsonl", 8, lambda *_: None)
    assert isinstance(own.grader, SameText)
    reference = own.questions[2].reference
    assert own.grader.right(own.grader.extract("it is 2.\n"), reference)
    assert not own.grader.right(own.grader.extract("it is two."), reference)
    assert not own.grader.right(own.grader.extract(" \n"), reference)


def test_a_target_that_answers_nothing_is_refused(tmp_path):
    pair = ScriptedPair(lambda *_: "I do not know.")
    with pytest.raises(StetError, match="answers none of the 3 questions"):
        with_own_answers(pair, task(), tmp_path / "own.jsonl", 8, lambda *_: None)


def test_refusals_speak_of_the_target():
    points = [ThresholdPoint(0.5, 100, 88, 0.3, 0.6, 3)]
    with pytest.raises(StetError, match=r"No threshold gives the target's own answer to 95\.0%"):
        choose(points, Wish("speed", 0.95), TARGETS_ANSWER)


def test_sampled_rollouts_need_answers():
    many = task(20, references=False, grader=None)
    with pytest.raises(OptionError, match="name a grader"):
        CalibrateRequest(many, Wish("keep", 0.5), SpecGuard(), rollouts=4)
    with pytest.raises(OptionError, match="rollouts is -1"):
        CalibrateRequest(many, Wish("keep", 0.5), SpecGuard(), rollouts=-1)
    named = CalibrateRequest(
        replace(many, grader=GRADER), Wish("keep", 0.5), SpecGuard(), rollouts=4
    )
    assert named.label_source is TARGETS_ANSWER
