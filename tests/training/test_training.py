"""Whole trainings on the bundled pair: branches against brute force, going on, refusals."""

import json
from dataclasses import replace

import pytest
import torch

from stet.arbiter import DEFAULT, Arbiter, Network
from stet.calibration.rollouts import prompt_of
from stet.core.errors import OptionError, StetError
from stet.evaluation.graders import AnswerLine, FunctionGrader, MathVerify
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.policies import CoSpec
from stet.policies.reference import PROBABILITY
from stet.training import improving
from stet.training import training as module
from stet.training.branches import Brancher, Branches
from stet.training.fitting import FitSettings
from stet.training.gradient import GradientSettings
from stet.training.inspecting import inspect_folder
from stet.training.measuring import Measuring
from stet.training.request import TrainRequest
from stet.training.rollout_policy import RolloutPolicy, roll_out
from stet.training.training import train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_thresholds(monkeypatch):
    monkeypatch.setattr(module, "CURVE", (0.3, 0.7))


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, max_batch=16)


@pytest.fixture(scope="module")
def task():
    return load_task("stories", split="policy_train", count=24)


@pytest.fixture(scope="module")
def validation():
    return load_task("stories", split="validation", count=10)


def arbiter(seed=0):
    torch.manual_seed(seed)
    return Arbiter(Network(len(DEFAULT)).requires_grad_(False), DEFAULT)


def small(task, validation, **more):
    gradient = GradientSettings(group=2, questions=6)
    settings = {"rounds": 2, "check_every": 1, "gradient": gradient, "batch": 16, **more}
    return TrainRequest(task, validation, fit=FitSettings(hidden=(4,)), **settings)


def quiet(what, done, total):
    assert 0 <= done <= total


def test_a_rollout_decides_as_the_policy_does(pair, task):
    made, questions = arbiter(), range(8)
    prompts = [list(prompt_of(pair, task, task.questions[i])) for i in questions]
    expected = pair.generate(prompts, CoSpec(made, 0.4), max_new_tokens=task.max_new_tokens)
    rollouts = roll_out(pair, task, questions, RolloutPolicy(made, 0.4))
    assert [g.tokens for g in rollouts] == [tuple(r.token_ids) for r in expected]
    assert any(g.mismatches for g in rollouts)
    for rollout, question in zip(rollouts, task.questions, strict=False):
        text = pair.tokenizer.decode(list(rollout.tokens), skip_special_tokens=True)
        assert rollout.right == task.grader.right(task.grader.extract(text), question.reference)
        assert rollout.features.shape == (len(rollout.mismatches), len(DEFAULT))
        for at, mismatch in zip(rollout.places, rollout.mismatches, strict=True):
            assert rollout.tokens[at] == (mismatch.draft if mismatch.accepted else mismatch.target)


def test_random_decisions_are_repeatable_and_differ_by_seed(pair, task):
    questions = [0, 0, 0, 1, 1, 1]
    first, again, other = (
        [g.tokens for g in roll_out(pair, task, questions, RolloutPolicy(arbiter()), seeds=s)]
        for s in (range(6), range(6), range(6, 12))
    )
    assert first == again
    assert first != other
    assert len(set(first)) > 2


def upside_down(answer, reference):
    """A reward of one's own: wrong answers are what is wanted."""
    return not AnswerLine().right(AnswerLine().extract(answer), reference)


def test_the_reward_is_any_grader(pair, task):
    """Number match, math-verify, or a function of the answer and the reference."""
    pytest.importorskip("math_verify")
    right = {}
    graders = {
        "number": task.grader,
        "math": MathVerify(),
        "function": FunctionGrader(upside_down),
    }
    for name, grader in graders.items():
        rollouts = roll_out(
            pair, replace(task, grader=grader), range(12), RolloutPolicy(arbiter(), 0.4)
        )
        right[name] = [rollout.right for rollout in rollouts]
    assert len(set(right["number"])) == 2
    assert right["math"] == right["number"]
    assert right["function"] == [not value for value in right["number"]]


def test_branches_are_what_both_ways_on_come_to(pair, task, tmp_path):
    """Each against a request of its own: the prompt, the answer so far, and one of the tokens."""
    policy = RolloutPolicy(arbiter(), 0.4)
    found = Brancher(pair, task, policy, batch=4).collect(tmp_path, range(6))
    rollouts = roll_out(pair, task, range(6), policy)
    assert len(found) == sum(len(g.mismatches) for g in rollouts) > 10
    rows = iter(range(len(found)))
    for rollout in rollouts:
        question = task.questions[rollout.question]
        for at, mismatch in zip(rollout.places, rollout.mismatches, strict=True):
            i = next(rows)
            assert int(found.question[i]) == rollout.question
            assert int(found.place[i]) == at
            assert found.features[i].tolist() == pytest.approx(mismatch.features, abs=1e-4)
            outcomes = {}
            for token in (mismatch.draft, mismatch.target):
                written = [*rollout.tokens[:at], token]
                rest = ""
                if token not in pair.end_tokens:
                    result = pair.generate(
                        [[*rollout.prompt, *written]],
                        policy,
                        max_new_tokens=task.max_new_tokens - len(written),
                    )[0]
                    rest = result.text
                text = pair.tokenizer.decode(written, skip_special_tokens=True) + rest
                outcomes[token] = task.grader.right(task.grader.extract(text), question.reference)
            assert bool(found.with_draft[i]) == outcomes[mismatch.draft]
            assert bool(found.with_target[i]) == outcomes[mismatch.target]


def test_of_a_long_answer_some_mismatches_are_branched(pair, task, tmp_path):
    """The branches are some of those of every mismatch, the same ones each time."""
    policy = RolloutPolicy(arbiter(), 0.4)
    every = Brancher(pair, task, policy, batch=8).collect(tmp_path / "all", range(8))
    some, again = (
        Brancher(pair, task, policy, batch=8, most=2).collect(tmp_path / name, range(8))
        for name in ("some", "again")
    )
    assert torch.equal(some.features, again.features)
    counts = {q: int((every.question == q).sum()) for q in every.question.tolist()}
    assert max(counts.values()) > 2
    assert {q: int((some.question == q).sum()) for q in counts} == {
        q: min(count, 2) for q, count in counts.items()
    }
    known = {
        (int(q), int(at)): (bool(d), bool(t))
        for q, at, d, t in zip(
            every.question, every.place, every.with_draft, every.with_target, strict=True
        )
    }
    for q, at, d, t in zip(
        some.question, some.place, some.with_draft, some.with_target, strict=True
    ):
        assert known[int(q), int(at)] == (bool(d), bool(t))


def test_branches_that_are_there_are_not_collected_again(pair, task, tmp_path, monkeypatch):
    brancher = Brancher(pair, task, RolloutPolicy(arbiter(), 1.0), batch=4)
    first = brancher.collect(tmp_path, range(8))
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(pair, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert torch.equal(brancher.collect(tmp_path, range(8)).features, first.features)


@pytest.mark.parametrize("method", ["groups", "flips", "none"])
def test_a_training_from_start_to_end(pair, task, validation, tmp_path, method):
    request = small(task, validation, method=method)
    found = train(pair, request, tmp_path, quiet)
    policy = CoSpec.load(tmp_path / "policy")
    assert policy.pair == pair.fingerprint
    assert policy._arbiter.threshold == found.arbiter.threshold
    assert len(found.cells) == 2
    assert len(found.rounds) == (0 if method == "none" else 2)
    assert found.target.accepted_mismatches == 0
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines][:2] == ["branches", "branches"]
    chosen = next(m for m in found.final if m.threshold == found.arbiter.threshold)
    with pair.costs_of_run(tmp_path / "profile.json"):  # blocks are drafted by what it began with
        again = Measuring(pair, validation, policy._arbiter, 16).at(chosen.threshold)
    assert again == chosen
    # How it decided then is written into it, for a server to hold what it decides against.
    known = policy.fitted.reference
    assert (known.answers, known.decisions) == (chosen.questions, chosen.mismatches)
    assert known.accepted == pytest.approx(chosen.accepted_mismatches / chosen.mismatches)
    assert sum(known.signals[PROBABILITY].counts) == known.decisions
    # What is there is not computed again, and comes out the same.
    resumed = train(pair, request, tmp_path, quiet).arbiter
    assert resumed.threshold == found.arbiter.threshold
    assert CoSpec(resumed).fitted.reference.accepted == pytest.approx(known.accepted)


def test_answers_whose_decisions_stay_the_same_are_not_written_again(pair, task, monkeypatch):
    """A curve measured in one go is that of its thresholds measured one by one."""
    task = replace(task, questions=task.questions[:12])
    made, thresholds = arbiter(), (0.3, 0.35, 0.4, 1.0)
    alone = [Measuring(pair, task, made, 8).at(t) for t in thresholds]
    asked = []
    generate = pair.generate
    monkeypatch.setattr(
        pair,
        "generate",
        lambda prompts, *a, **k: asked.append(len(prompts)) or generate(prompts, *a, **k),
    )
    together = Measuring(pair, task, made, 8)
    assert [together.at(t) for t in thresholds] == alone
    assert len(set(alone)) == 4
    assert 12 < sum(asked) < 4 * 12
    before = sum(asked)
    together.at(0.35)
    assert sum(asked) == before


@pytest.mark.parametrize(
    ("method", "update"), [("groups", "improve"), ("flips", "improve_by_flips")]
)
def test_an_interrupted_training_goes_on_where_it_was(
    pair, task, validation, tmp_path, monkeypatch, method, update
):
    request = small(task, validation, rounds=3, method=method)
    whole = train(pair, request, tmp_path / "whole", quiet)

    real, calls = getattr(improving, update), []

    def failing(*arguments):
        calls.append(arguments[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(improving, update, failing)
    with pytest.raises(KeyboardInterrupt):
        train(pair, request, tmp_path / "cut", quiet)
    found = train(pair, request, tmp_path / "cut", quiet)
    # Two rounds were done; the third was lost and done again.
    assert len(calls) == 4
    if method == "flips":  # whose outcomes of all rounds count, before and after
        first, second, lost, again = map(len, calls)
        assert first < second < lost == again
    for name, weight in whole.arbiter.network.state_dict().items():
        assert torch.allclose(weight, found.arbiter.network.state_dict()[name], atol=1e-6)
    assert [r["round"] for r in found.rounds] == [0, 1, 2]


def test_questions_that_do_not_fit_are_left_out_and_counted(pair, task, validation, tmp_path):
    long = replace(task.questions[0], id="long", prompt="Ann has 3 pens. " * 200)
    longer = replace(task, questions=[*task.questions, long])
    made = train(pair, small(longer, validation, rounds=0), tmp_path, quiet)
    assert "1 of 25 questions were left out" in made.record["notes"]["task"]
    assert "left out" not in made.record["notes"].get("validation", "")


def test_a_folder_is_tied_to_its_settings(pair, task, validation, tmp_path):
    request = small(task, validation, method="none", sweeps=1)
    train(pair, request, tmp_path, quiet)
    longer = replace(request, task=replace(task, max_new_tokens=task.max_new_tokens + 1))
    for other in (replace(request, seed=5), longer):
        with pytest.raises(StetError, match="holds another training"):
            train(pair, other, tmp_path, quiet)


def test_a_folder_that_is_refused_is_left_as_it_was(pair, task, validation, tmp_path):
    (tmp_path / "settings.json").write_text("{}\n")
    (tmp_path / "log.jsonl").write_text('{"stage": "bra')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for labels in ("answers", "target"):
        with pytest.raises(StetError, match="holds another training"):
            train(pair, small(task, validation, labels=labels), tmp_path, quiet)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_was_collected_can_be_looked_at(pair, task, validation, tmp_path):
    with pytest.raises(StetError, match="holds no training"):
        inspect_folder(tmp_path)
    train(pair, small(task, validation, method="none", sweeps=1), tmp_path, quiet)
    (found,) = inspect_folder(tmp_path)
    assert found.name == "sweep-0"
    assert found.branches == sum(found.cells.values())
    assert set(found.auroc) <= set(DEFAULT)


def test_hidden_states_can_be_looked_at(pair, task, validation, tmp_path):
    features = ("draft_draft", "target_hidden_after", "draft_hidden")
    request = small(task, validation, method="none", sweeps=1, features=features)
    found = train(pair, request, tmp_path, quiet)
    assert found.arbiter.network.inputs == 1 + 128 + 96


def test_shuffled_labels_are_the_outcomes_of_other_mismatches(
    pair, task, validation, tmp_path, monkeypatch
):
    def reverse(branches, seed):
        shuffled.append(seed)
        return replace(branches, with_draft=branches.with_target, with_target=branches.with_draft)

    shuffled, fitted = [], []
    monkeypatch.setattr(Branches, "shuffled", reverse)
    real = module.fit
    monkeypatch.setattr(module, "fit", lambda *a: fitted.append(a[0].cells()) or real(*a))
    request = small(task, validation, method="none", sweeps=1)
    for labels in ("answers", "shuffled"):
        train(pair, replace(request, labels=labels), tmp_path / labels, quiet)
    assert len(shuffled) == 1
    own, dealt = fitted
    assert dealt["draft only"] == own["target only"]
    assert dealt["target only"] == own["draft only"] != own["target only"]


def test_what_to_expect_is_told_where_labels_are_right_answers(
    pair, task, validation, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(module, "outlook", lambda branches, seed: seen.append(len(branches)))
    request = small(task, validation, method="none", sweeps=1)
    for labels in ("target", "answers"):
        folder = tmp_path / labels
        found = train(pair, replace(request, labels=labels), folder, quiet)
        (looked,) = inspect_folder(folder)
        assert (looked.outlook is None) is (labels == "target")
    assert seen == [sum(found.cells[0].values())]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": "gut"}, "labels is 'gut'; choose from answers, target, shuffled"),
        ({"labels": "shuffled"}, "Shuffled labels are a control of the warm start"),
        ({"method": "luck"}, "method is 'luck'"),
        ({"features": ()}, "at least one feature"),
        ({"features": ("mood",)}, "There is no feature 'mood'"),
        ({"sweeps": 0}, "sweeps is 0"),
        ({"rounds": -1}, "rounds is -1"),
        ({"within": 1.5}, "within is 1.5"),
        ({"error": 0.0}, "error is 0.0"),
    ],
)
def test_what_cannot_be_done_is_refused(task, validation, change, sentence):
    with pytest.raises(OptionError, match=sentence):
        small(task, validation, **change)


def test_questions_are_not_judged_by_that_were_trained_on(task, validation):
    with pytest.raises(OptionError, match="10 of the validation questions are also trained on"):
        small(task, replace(task, questions=task.questions[:10]))
    with pytest.raises(OptionError, match="are too few"):
        small(replace(task, questions=task.questions[:5]), validation)
    with pytest.raises(OptionError, match="The reward is a right answer"):
        small(replace(task, grader=None), validation)
