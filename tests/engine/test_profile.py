"""Costs that are kept between processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stet import load_pair
from stet.core.cache import cache_folder
from stet.engine.costs import Costs
from stet.engine.profile import Profile

NAMED = b'{"version": 2, "about": {}, "costs": {%s}}'
COSTS = Costs({1: 0.1}, {1: 1.0, 13: 1.5})


def test_costs_come_back_in_another_process(tmp_path: Path) -> None:
    Profile(tmp_path / "a.json", {"pair": "x"}).put((2, 0), COSTS)
    again = Profile(tmp_path / "a.json", {"pair": "x"})
    assert again.get((2, 0)) == COSTS
    assert again.get((2, 4)) is None
    assert Profile(tmp_path / "a.json", {"pair": "y"}).get((2, 0)) is None


def test_what_is_measured_again_takes_the_place_of_what_was_wrong(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "a.json", {})
    profile.put((2, 0), COSTS)
    better = Costs({1: 0.2}, {1: 2.0, 13: 3.0})
    profile.put((2, 0), better)
    assert Profile(tmp_path / "a.json", {}).get((2, 0)) == better


def test_two_processes_keep_what_the_other_added(tmp_path: Path) -> None:
    first, second = (Profile(tmp_path / "a.json", {}) for _ in range(2))
    first.put((1, 0), COSTS)
    second.put((2, 0), COSTS)
    assert Profile(tmp_path / "a.json", {}).get((1, 0)) == COSTS


def test_a_record_keeps_what_it_has_and_adds_what_it_lacks(tmp_path: Path) -> None:
    source = Profile(None, {})
    source.put((2, 0), COSTS)
    record = Profile(tmp_path / "a.json", {}, source=source)
    assert record.get((2, 0)) == COSTS
    assert record.get((2, 4)) is None
    source.put((2, 0), Costs({1: 0.2}, {1: 2.0, 13: 3.0}))
    assert record.get((2, 0)) == COSTS
    record.put((2, 0), Costs({1: 0.5, 16: 0.2}, {1: 2.0, 13: 3.0, 48: 3.0}))
    wide = Costs({1: 0.1, 16: 0.2}, {1: 1.0, 13: 1.5, 48: 3.0})
    assert Profile(tmp_path / "a.json", {}, source=source).get((2, 0)) == wide


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"version": 1, "about": {}, "costs": {}}',
        NAMED % b'"2 threads, 0 compiled": {"draft": {}, "target": {}, "disturbed": false}',
        NAMED
        % b'"2 threads, 0 compiled": {"draft": {"1": -1}, "target": {"1": 1}, "disturbed": 0}',
        NAMED % b'"2 threads, 0 compiled": {"draft": {"1": 1}, "target": {"1": 1}}',
        NAMED % b'"x": {"draft": {"1": 1}, "target": {"1": 1}, "disturbed": false}',
    ],
)
def test_a_damaged_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    profile = Profile(path, {})
    assert profile.get((2, 0)) is None
    profile.put((2, 0), COSTS)
    assert Profile(path, {}).get((2, 0)) == COSTS


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    profile = Profile(tmp_path / "file" / "a.json", {})
    profile.put((2, 0), COSTS)
    assert profile.get((2, 0)) == COSTS


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("STET_CACHE", str(tmp_path))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert cache_folder("open") is None
    assert cache_folder("own") == tmp_path / "own"


def test_a_pair_measures_once_for_all_processes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("STET_CACHE", str(tmp_path))
    with load_pair(compile=False) as first:
        costs = first.costs
    (path,) = (tmp_path / "profiles").iterdir()
    assert json.loads(path.read_text())["about"]["pair"] == first.fingerprint
    with load_pair(compile=False) as second:
        assert second.costs == costs
        assert second.auto_length() == first.auto_length()
    with load_pair(compile=False, profile=False) as third:
        assert third.costs != costs


def test_a_run_goes_on_with_the_costs_it_began_with(tmp_path: Path) -> None:
    path, inner = tmp_path / "profile.json", tmp_path / "inner.json"
    with load_pair(compile=False, profile=False) as first, first.costs_of_run(path):
        costs = first.costs
        with first.costs_of_run(inner):
            assert first.costs == costs
        assert first.costs == costs
    with load_pair(compile=False, profile=False) as second:
        own = second.costs
        with second.costs_of_run(path):
            resumed = second.costs
            assert (resumed.draft, resumed.target) == (costs.draft, costs.target)
        assert second.costs == own
