"""A whole calibration on the bundled pair: labels, thresholds, the file, and going on."""

import io
import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from stet.calibration import samples
from stet.calibration.calibrate import calibrate
from stet.calibration.choosing import Wish
from stet.calibration.collect import Collector
from stet.calibration.labels import Label, LabellingByAnswer
from stet.calibration.report.terminal import terminal
from stet.calibration.request import CalibrateRequest
from stet.calibration.result import Calibration
from stet.calibration.rollouts import Prefix, Rolling, Rollouts, prompt_of
from stet.core.errors import OptionError, StetError
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.policies import SpecGuard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, max_batch=16)


@pytest.fixture(scope="module")
def task():
    return load_task("stories", split="calibration", count=24)


def test_a_prefix_is_sound_if_the_target_gets_home_from_it(pair, task):
    rollouts = Rollouts(pair, task.grader, task.max_new_tokens)
    questions = task.questions[:6]
    prompts = [prompt_of(pair, task, q) for q in questions]
    answers = pair.generate([list(p) for p in prompts], "target", max_new_tokens=256)
    right = [
        task.grader.right(task.grader.extract(r.text), q.reference)
        for r, q in zip(answers, questions, strict=True)
    ]
    empty = [Prefix(p, (), q.reference) for p, q in zip(prompts, questions, strict=True)]
    whole = [
        Prefix(p, tuple(r.token_ids), q.reference)
        for p, q, r in zip(prompts, questions, answers, strict=True)
    ]
    assert rollouts.sound(empty) == right
    assert rollouts.sound(whole) == right
    line = pair.tokenizer("Answer: 987654321\n", add_special_tokens=False)["input_ids"]
    wrong = (*line, pair.tokenizer.eos_token_id)
    assert not any(rollouts.sound([Prefix(p.prompt, wrong, p.reference) for p in empty]))


def test_what_is_known_is_not_computed_again(pair, task, monkeypatch):
    rollouts = Rollouts(pair, task.grader, task.max_new_tokens)
    prefixes = [Prefix(prompt_of(pair, task, q), (), q.reference) for q in task.questions[:3]]
    first = rollouts.sound(prefixes)
    monkeypatch.setattr(pair, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert rollouts.sound(prefixes[::-1]) == first[::-1]


def test_labels_follow_from_the_answers(pair, task, tmp_path):
    """Along an answer that came out right every accepted step was sound."""
    collector = Collector(pair, task, SpecGuard(threshold=0.0), batch=12)
    found = collector.collect(tmp_path / "steps.jsonl")
    assert {s.problem for s in found} == {q.id for q in task.questions}
    kinds = set()
    for problem in found:
        assert all(s.kept for s in problem.steps)
        blamed = [s for s in problem.steps if s.good is False]
        kinds.add((problem.right, bool(blamed)))
        # With every step accepted, a step after the first bad one is to blame for nothing.
        if blamed:
            later = problem.steps[problem.steps.index(blamed[0]) + 1 :]
            assert all(s.good is None for s in later) or problem.right
    assert (True, False) in kinds
    assert (False, True) in kinds
    # Started again, nothing is left to do.
    again = Collector(pair, task, SpecGuard(threshold=0.0), batch=12)
    assert again.collect(tmp_path / "steps.jsonl") == found
    assert samples.read(tmp_path / "steps.jsonl") == found


def test_a_calibration_is_a_policy_for_this_pair_alone(pair, task, tmp_path):
    stages = []
    request = CalibrateRequest(task, Wish("accuracy"), SpecGuard(), thresholds=2, batch=12)
    made = calibrate(pair, request, tmp_path / "work", lambda *told: stages.append(told))
    path = tmp_path / "specguard.json"
    made.save(path)
    assert {s for s, _, _ in stages} == {"labelling steps", "trying thresholds"}
    assert made.task["fitted_on"] + made.task["chosen_on"] == len(task.questions)
    assert set(made.references) == {"target", "exact"}
    assert sum(b.steps for b in made.reliability.bins) == made.task["steps"] > 0
    assert json.loads(json.dumps(asdict(Calibration.load(path)))) == json.loads(path.read_text())
    policy = SpecGuard.load(path)
    assert policy.pair == pair.fingerprint
    assert policy.threshold == made.chosen.threshold
    # How it decided then is in the file, for a server to hold what it decides against.
    known = policy.fitted.reference
    assert known == made.reference
    assert known.accepted == pytest.approx(made.chosen.kept)
    assert known.answers == made.chosen.problems
    assert set(known.signals) == {*policy.signals, "score"}
    assert all(sum(spread.counts) == known.decisions for spread in known.signals.values())
    by_file = pair.generate(["Ann has 3 pens."], policy=str(path), max_new_tokens=20)[0]
    assert by_file.text == pair.generate(["Ann has 3 pens."], policy, max_new_tokens=20)[0].text

    record = json.loads(path.read_text())
    record["parameters"]["pair"] = "another"
    path.write_text(json.dumps(record))
    with pytest.raises(OptionError, match="calibrated for another pair"):
        pair.generate(["Ann has 3 pens."], policy=str(path))

    # Going on with what is there gives the same.
    longer = replace(task, max_new_tokens=task.max_new_tokens + 1)
    for other in (replace(request, seed=1), replace(request, task=longer)):
        with pytest.raises(StetError, match="holds another calibration"):
            calibrate(pair, other, tmp_path / "work", lambda *_: None)
    second = calibrate(pair, request, tmp_path / "work", lambda *_: None)
    assert second.chosen == made.chosen
    assert second.reference == made.reference
    assert second.parameters == made.parameters


def test_without_right_answers_the_target_is_the_label_source(pair, task, tmp_path):
    """Steps are compared with the target's own answers, and so is what is bounded."""
    bare = replace(task, questions=[replace(q, reference=None) for q in task.questions])
    request = CalibrateRequest(bare, Wish("risk", 0.6, 0.2), SpecGuard(), thresholds=2, batch=12)
    made = calibrate(pair, request, tmp_path / "work", lambda *_: None)
    assert made.label_source == "target's answer"
    assert "disagrees with the target" in made.claim
    # The target always agrees with itself, and so does what promises its distribution.
    assert {p.accuracy for p in made.references.values()} == {1.0}
    assert all(p.losses is not None for p in made.points)
    # Where answers differ from the target's, an accepted step was the first mismatch.
    assert all(p.losses == p.problems - p.right for p in made.points)

    with pytest.raises(StetError, match="holds another calibration"):
        calibrate(pair, replace(request, task=task), tmp_path / "work", lambda *_: None)


def test_without_a_grader_the_targets_own_steps_are_the_label_source(pair, task, tmp_path):
    bare = replace(
        task, grader=None, questions=[replace(q, reference=None) for q in task.questions]
    )
    request = CalibrateRequest(bare, Wish("keep", 0.0), SpecGuard(), thresholds=2, batch=12)
    made = calibrate(pair, request, tmp_path / "work", lambda *_: None)
    assert made.label_source == "target's text"
    assert made.task["labels"] == "the target writes the same step from the same prefix"
    found = samples.read(tmp_path / "work" / "steps.jsonl")
    labels = [s.good for p in found for s in p.steps]
    assert None not in labels  # every step can be compared with the target's
    assert {True, False} <= set(labels)
    assert made.reliability.good == pytest.approx(sum(labels) / len(labels))
    assert {p.accuracy for p in made.references.values()} == {1.0}


def test_sampled_rollouts_label_steps(pair, task, tmp_path):
    few = replace(task, questions=task.questions[:6])
    rolling = Rolling(task.grader, task.max_new_tokens, samples=4, seed=1)
    labelling = LabellingByAnswer(rolling)
    collector = Collector(pair, few, SpecGuard(threshold=0.0), batch=3, labelling=labelling)
    found = collector.collect(tmp_path / "steps.jsonl")
    labels = {s.good for p in found for s in p.steps}
    assert True in labels
    # What is sampled hangs on the chunk alone: an interrupted collection goes on to the same.
    lines = (tmp_path / "steps.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rest.jsonl").write_text("".join(lines[3:]))
    assert collector.collect(tmp_path / "rest.jsonl") == found
    rollouts, again = (rolling.of(pair, 3) for _ in range(2))
    prefixes = [Prefix(prompt_of(pair, task, q), (), q.reference) for q in few.questions]
    assert again.sound(prefixes) == rollouts.sound(prefixes)
    assert rolling.of(pair, 4).seed != rollouts.seed


def test_steps_that_save_are_kept_with_their_labels(pair, task, tmp_path):
    class Saving:
        words = "it saves"

        def of(self, pair, chunk):
            return self

        def label(self, proposals):
            return [Label(True, saves=place % 2 == 0) for place in range(len(proposals))]

    few, path = replace(task, questions=task.questions[:6]), tmp_path / "steps.jsonl"
    collector = Collector(pair, few, SpecGuard(threshold=0.0), batch=6, labelling=Saving())
    collector.collect(path)
    saves = [s.saves for p in samples.read(path) for s in p.steps]
    assert saves == [place % 2 == 0 for place in range(len(saves))]
    assert len(saves) > 6


def test_problems_that_do_not_fit_are_left_out_and_counted(pair, task, tmp_path):
    """One long problem used to end the whole calibration."""
    first, *others = task.questions
    long = replace(first, id="long", prompt="Ann has 3 pens. " * 200)
    request = CalibrateRequest(
        replace(task, questions=[*others, long]),
        Wish("keep", 0.0),
        SpecGuard(),
        thresholds=2,
        batch=12,
    )
    made = calibrate(pair, request, tmp_path / "work", lambda *_: None)
    assert made.task["note"].startswith(f"{task.note} 1 of 24 questions were left out".strip())
    assert made.task["fitted_on"] + made.task["chosen_on"] == 23
    console = Console(width=200, file=io.StringIO())
    console.print(terminal(made))
    assert "1 of 24 questions were left out" in console.file.getvalue()


def test_bad_requests_are_refused():
    task = load_task("stories", split="calibration", count=24)
    with pytest.raises(OptionError, match="thresholds is 21"):
        CalibrateRequest(task, Wish("accuracy"), SpecGuard(), thresholds=21)
    few = load_task("stories", split="calibration", count=5)
    with pytest.raises(OptionError, match="too few"):
        CalibrateRequest(few, Wish("accuracy"), SpecGuard())
