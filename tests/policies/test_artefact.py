"""Policies in files, and presets by name."""

import json

import pytest

from stet.core.errors import OptionError
from stet.evaluation.contenders import parse
from stet.policies import SpecGuard, resolve
from stet.policies.artefact import read_artefact

pytestmark = pytest.mark.unit


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"policy": "specguard", "parameters": {"threshold": 0.4}}))
    return path


def test_a_file_is_a_policy_wherever_a_name_is(file):
    assert read_artefact(file) == ("specguard", {"threshold": 0.4})
    assert resolve(str(file)) == SpecGuard(threshold=0.4)
    assert resolve(str(file), {"step_tokens": 9}) == SpecGuard(threshold=0.4, step_tokens=9)
    (made,) = parse(str(file))
    assert made.label == "mine"
    assert made.policy == SpecGuard(threshold=0.4)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_trained_signal_is_found_beside_its_file_wherever_that_is(tmp_path, absolute):
    beside = tmp_path / "moved" / "mine-head"
    named = str(tmp_path / "elsewhere") if absolute else "mine-head"
    path = tmp_path / "moved" / "mine.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"policy": "specguard", "parameters": {"head": named}}))
    assert read_artefact(path)[1] == {"head": named if absolute else str(beside)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"policy": "specguard"}', '{"policy": 1'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(OptionError, match="holds no policy"):
        resolve(str(path))
    with pytest.raises(OptionError, match="cannot be read"):
        resolve(str(tmp_path / "nothing.json"))


def test_a_preset_is_named_after_its_policy():
    assert resolve("specguard.paper") == SpecGuard.paper()
    assert resolve("specguard.greedy", {"threshold": 0.5}) == SpecGuard.greedy(threshold=0.5)
    assert SpecGuard.greedy().candidates == 1
    assert SpecGuard.paper().candidates == 16
    (made,) = parse("specguard.paper:threshold=0.5")
    assert made.label == "specguard.paper (threshold=0.5)"
    assert made.entry.name == "specguard"
    for name in ("specguard.mine", "exact.paper"):
        with pytest.raises(OptionError, match="presets"):
            resolve(name)
    with pytest.raises(OptionError, match="no policy"):
        resolve("nothing.paper")
