"""Calibrations and trainings whose steps are collected by workers come to the same."""

import json
import shutil
from dataclasses import asdict

import pytest

from executors.fakes import Backend, Keeper, once
from executors.test_pooled import Held
from stet.calibration import samples
from stet.calibration.calibrate import calibrate
from stet.calibration.choosing import Wish
from stet.calibration.collect import Collector
from stet.calibration.request import CalibrateRequest
from stet.calibration.states import load
from stet.core.folders import PROFILE
from stet.evaluation.tasks import load_task
from stet.executors.pooled import PooledExecutor
from stet.load import load_pair
from stet.policies import SpecGuard
from stet.training import training as module
from stet.training.fitting import FitSettings
from stet.training.gradient import GradientSettings
from stet.training.request import TrainRequest
from stet.training.training import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pairs():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = [load_pair(compile=False, max_batch=16) for _ in range(3)]
    yield made
    for pair in made:
        pair.close()
    torch.set_num_threads(before)


@pytest.fixture
def pooled(pairs):
    """Two workers, of which one dies at its second chunk, and one in its place."""
    free = pairs[::-1]
    backend = Backend(lambda: Keeper(Held({"pair": free.pop()})), dies=once(1))
    yield PooledExecutor(backend, 2, threads=1, tell=backend.told.append)
    assert len(backend.told) == 1, "a worker was to die"
    for worker in backend.workers:
        worker.does._entered.close()


def begun(folder, other):
    """The folder for work that begins with the costs of another one's."""
    other.mkdir()
    shutil.copy(folder / PROFILE, other / PROFILE)
    return other


@pytest.mark.parametrize(
    "changes",
    [
        {"wish": Wish("risk", 0.6, 0.2)},
        {"without_answers": True, "rollouts": 2},
    ],
)
def test_a_calibration_is_the_same(pairs, pooled, tmp_path, changes):
    task = load_task("stories", split="calibration", count=24).suited(pairs[2])
    # One at a time: where several share a round, the target's lossless blocks hang on its times.
    request = CalibrateRequest(
        **{"task": task, "wish": Wish("accuracy"), "base": SpecGuard(), "thresholds": 2}
        | {"batch": 1, **changes}
    )
    here = calibrate(pairs[2], request, tmp_path / "here", lambda *_: None)
    folder = begun(tmp_path / "here", tmp_path / "there")
    there = calibrate(pooled, request, folder, lambda *_: None)
    read = [samples.read(place / "steps.jsonl") for place in (tmp_path / "here", folder)]
    order = [q.id for q in task.questions]
    assert sorted(read[1], key=lambda s: order.index(s.problem)) == sorted(
        read[0], key=lambda s: order.index(s.problem)
    )
    ours, theirs = asdict(here), asdict(there)
    for found in (ours, theirs):
        del found["date"]
        for point in (*found["points"], found["chosen"], *found["references"].values()):
            del point["seconds"]
    assert theirs == ours


def test_hidden_states_come_from_workers_too(pairs, pooled, tmp_path):
    task = load_task("stories", split="calibration", count=6).suited(pairs[2])
    places = tmp_path / "here", tmp_path / "there"
    found = [
        Collector(where, task, SpecGuard(threshold=0.0), batch=1, states=place / "states").collect(
            place / "steps.jsonl"
        )
        for where, place in zip((pairs[2], pooled), places, strict=True)
        if not place.mkdir()
    ]
    assert found[0] == found[1]
    kept = [load(place / "states") for place in places]
    assert kept[0].keys() == kept[1].keys()
    assert len(kept[0]) == sum(len(sample.steps) for sample in found[0])
    assert all(bool((kept[0][name] == kept[1][name]).all()) for name in kept[0])


def test_a_training_is_the_same(pairs, pooled, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CURVE", (0.3, 0.7))
    request = TrainRequest(
        load_task("stories", split="policy_train", count=20).suited(pairs[2]),
        load_task("stories", split="validation", count=10).suited(pairs[2]),
        fit=FitSettings(hidden=(4,)),
        gradient=GradientSettings(group=2, questions=4),
        rounds=1,
        check_every=1,
        batch=4,
    )
    here = train(pairs[2], request, tmp_path / "here", lambda *_: None)
    folder = begun(tmp_path / "here", tmp_path / "there")
    told = []
    there = train(pooled, request, folder, lambda *progress: told.append(progress))
    ours, theirs = (json.loads(json.dumps(made.record)) for made in (here, there))
    for found in (ours, theirs):
        del found["date"]
    assert theirs == ours
    state, other = (made.arbiter.network.state_dict() for made in (here, there))
    assert all(bool((state[name] == other[name]).all()) for name in state)
    for path in (tmp_path / "here").rglob("branches-*"):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "here")).read_bytes()
    stages = {title for title, _, _ in told}
    assert {"branches, sweep 1 of 2", "policy gradient", "validation, warm start"} <= stages
    assert all(0 <= done <= total for _, done, total in told)
