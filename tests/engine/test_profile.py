"""Costs that are kept between processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stet import load_pair
from stet.core.cache import cache_folder
from stet.engine.costs import Costs
from stet.engine.profile import Profile

COSTS = Costs({1: 0.1}, {1: 1.0, 13: 1.5})


def test_costs_come_back_in_another_process(tmp_path: Path) -> None:
    Profile(tmp_path / "a.json", {"pair": "x"}).put(0, COSTS)
    again = Profile(tmp_path / "a.json", {"pair": "x"})
    assert again.get(0) == COSTS
    assert again.get(4) is None
    assert Profile(tmp_path / "a.json", {"pair": "y"}).get(0) is None


def test_what_was_kept_first_stays_unless_more_is_measured(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "a.json", {})
    profile.put(0, COSTS)
    profile.put(0, Costs({1: 0.2}, {1: 2.0, 13: 3.0}))
    assert profile.get(0) == COSTS
    wide = Costs({1: 0.1, 16: 0.2}, {1: 1.0, 13: 1.5, 48: 3.0})
    profile.put(0, wide)
    assert Profile(tmp_path / "a.json", {}).get(0) == wide


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"version": 2, "about": {}, "costs": {}}',
        b'{"version": 1, "about": {}, "costs": {"0": {"draft": {}, "target": {}}}}',
        b'{"version": 1, "about": {}, "costs": {"0": {"draft": {"1": -1}, "target": {"1": 1}}}}',
        b'{"version": 1, "about": {}, "costs": {"x": {}}}',
    ],
)
def test_a_damaged_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    profile = Profile(path, {})
    assert profile.get(0) is None
    profile.put(0, COSTS)
    assert Profile(path, {}).get(0) == COSTS


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    profile = Profile(tmp_path / "file" / "a.json", {})
    profile.put(0, COSTS)
    assert profile.get(0) == COSTS


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
