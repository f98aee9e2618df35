"""The trained signal: what it learns, that it is rated by heads that have not seen a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from stet.calibration import head_fitting, samples
from stet.calibration.calibrate import calibrate
from stet.calibration.choosing import Wish
from stet.calibration.head_fitting import Examples, fit_head
from stet.calibration.quality import auroc
from stet.calibration.request import CalibrateRequest
from stet.calibration.result import Calibration
from stet.calibration.states import load
from stet.core.errors import LoadError, OptionError, StetError
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.policies import SpecGuard
from stet.rewards import RewardHead
from stet.rewards.head import HeadNet, padded

WIDTH = 12


def examples(questions: int, told: float, seed: int = 0) -> Examples:
    """Steps of which one token tells the label, if `told` is large; each question has three."""
    draw = torch.Generator().manual_seed(seed)
    steps, good, problem = [], [], []
    for number in range(questions):
        for _ in range(3):
            label = bool(torch.rand((), generator=draw) < 0.7)
            length = int(torch.randint(2, 9, (), generator=draw))
            states = torch.randn(length, WIDTH, generator=draw) * 3 + 40  # far from standard
            place = int(torch.randint(length, (), generator=draw))
            states[place, 0] += told * (1 if label else -1)
            steps.append(states)
            good.append(label)
            problem.append(f"q{number}")
    return Examples(steps, good, problem)


def area(logits: list[float], good: list[bool]) -> float:
    values, labels = torch.tensor(logits), torch.tensor(good)
    found = auroc(values[labels].numpy(), values[~labels].numpy())
    assert found is not None
    return found


def test_it_learns_what_hidden_states_tell_and_nothing_else():
    telling, silent = examples(160, 30.0), examples(160, 0.0)
    net, logits = fit_head(telling)
    assert area(logits, telling.good) > 0.9
    new = examples(80, 30.0, seed=1)
    with torch.no_grad():
        found = net(*padded(new.states))  # states as they are
    assert area(found.tolist(), new.good) > 0.9
    assert binary_cross_entropy_with_logits(found, torch.tensor(new.good).float()) < 0.4
    _, blind = fit_head(silent)
    assert 0.35 < area(blind, silent.good) < 0.65


def test_each_step_is_rated_by_a_head_that_has_not_seen_its_question(monkeypatch):
    steps = examples(24, 1.0)
    asked = {
        id(states): problem for states, problem in zip(steps.states, steps.problem, strict=True)
    }
    seen: list[set[str]] = []
    rated: list[set[str]] = []

    def fit(chosen: Examples, seed: int):
        seen.append(set(chosen.problem))
        return None

    def rate(_, states):
        rated.append({asked[id(one)] for one in states})
        return [float(len(rated))] * len(states)

    monkeypatch.setattr(head_fitting, "_fit", fit)
    monkeypatch.setattr(head_fitting, "_rate", rate)
    _, logits = fit_head(steps)
    assert len(rated) == 4
    assert seen.pop() == set(steps.problem)  # the head that is kept learns from all
    for learned, held in zip(seen, rated, strict=True):
        assert learned | held == set(steps.problem)
        assert not learned & held
    # Each rating is in its step's place.
    assert all(p in rated[int(at) - 1] for at, p in zip(logits, steps.problem, strict=True))


def test_a_head_takes_states_as_they_are():
    states = examples(6, 1.0).states
    scale = head_fitting._Scale.of(states)
    every = torch.cat(states)
    assert torch.allclose(scale.mean, every.mean(0), rtol=1e-5)
    assert torch.allclose(scale.spread, every.std(0, correction=0), rtol=1e-4)
    torch.manual_seed(0)
    net = HeadNet(WIDTH, 8)
    with torch.no_grad():
        expected = net(*padded([(one - scale.mean) / scale.spread for one in states]))
        scale.fold_into(net)
        assert torch.allclose(net(*padded(states)), expected, atol=1e-4)


def test_it_is_repeatable_and_leaves_the_random_state_alone():
    steps = examples(40, 10.0)
    before = torch.random.get_rng_state()
    first = fit_head(steps, seed=3)[1]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fit_head(steps, seed=3)[1] == first


@pytest.mark.parametrize("questions", [6, 40])
def test_too_little_is_refused(questions):
    steps = examples(questions, 1.0)
    if questions == 40:
        steps = Examples(steps.states, [True] * len(steps.good), steps.problem)
    with pytest.raises(StetError, match=f"steps of {questions} questions"):
        fit_head(steps)


@pytest.mark.slow
def test_a_calibration_trains_it_and_keeps_it_beside_the_file(tmp_path: Path, monkeypatch):
    pair = load_pair(compile=False, max_batch=16)
    task = load_task("stories", split="calibration", count=64)
    request = CalibrateRequest(
        task, Wish("accuracy"), SpecGuard(), thresholds=2, batch=16, head=True
    )
    stages = set()
    made = calibrate(pair, request, tmp_path / "work", lambda *told: stages.add(told[0]))
    assert stages == {"labelling steps", "training", "trying thresholds"}
    assert "head" in {q.name for q in made.qualities}

    # The states are those of the steps, and what stays in the policy's file is found beside it.
    labelled = samples.read(tmp_path / "work/steps.jsonl")
    kept = load(tmp_path / "work/states")
    assert {(s.problem, s.index): s.tokens for p in labelled for s in p.steps} == {
        place: len(states) for place, states in kept.items()
    }
    alone = SpecGuard(signals=("head",), head=str(tmp_path / "work/head"), threshold=0.5)
    assert alone.pair == pair.fingerprint
    found = pair.generate([task.questions[0].prompt], alone, max_new_tokens=64)[0]
    step = found.trace.steps[0]
    head = RewardHead.load(tmp_path / "work/head")
    states = kept[task.questions[0].id, 0].float()
    with torch.no_grad():
        logit = float(head.net(*padded([states]))[0])
    assert step.signals["head"] == pytest.approx(logit, abs=0.05)
    assert step.score == pytest.approx(1 / (1 + torch.tensor(-logit).exp().item()), abs=0.02)

    parameters = {**made.parameters, "signals": ["head"], "weights": [1.0]}
    parameters |= {"ranges": [[-3.0, 3.0]], "head": str(tmp_path / "work/head")}
    moved = Calibration(**{**made.__dict__, "parameters": parameters})
    path = tmp_path / "elsewhere/policy.json"
    moved.save(path)
    assert json.loads(path.read_text())["parameters"]["head"] == "policy-head"
    policy = SpecGuard.load(path)
    assert RewardHead.load(policy.head).pair == pair.fingerprint
    monkeypatch.setattr(pair, "fingerprint", "another")
    with pytest.raises(OptionError, match="was calibrated for another pair"):
        pair.generate(["1 + 1"], policy, max_new_tokens=4)
    monkeypatch.undo()
    with pytest.raises(OptionError, match=r"policy-head was trained for another pair"):
        SpecGuard(signals=("head",), head=policy.head, pair="another")
    moved.save(path)  # again, over itself
    Calibration.load(path).save(tmp_path / "elsewhere/policy.json")

    # Going on with what is there gives the same.
    again = calibrate(pair, request, tmp_path / "work", lambda *_: None)
    assert again.parameters == made.parameters
    assert again.qualities == made.qualities


def test_a_signal_that_is_not_trained_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="is trained; name its folder"):
        SpecGuard(signals=("head",))
    with pytest.raises(LoadError, match="is no reward head"):
        SpecGuard(signals=("head",), head=str(tmp_path))
