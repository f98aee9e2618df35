"""Records of long runs come back from the repository as they were."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _kept

    monkeypatch.setattr(_kept, "RECORDS", tmp_path / "records")
    yield _kept
    sys.modules.pop("_kept", None)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def fill(folder: Path) -> dict[str, bytes]:
    records = {
        "tune.jsonl": b'{"text": "a"}\n' * 100,
        "train-0/policy/arbiter.safetensors": bytes(range(256)),
        "train-0/training.json": b"{}",
    }
    for name, content in records.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return records


def test_records_come_back(kept, tmp_path: Path) -> None:
    records = fill(tmp_path / "one" / "real")
    (tmp_path / "one" / "real" / "tune.begun.json").write_text("[]")
    (tmp_path / "one" / "real" / "problems").mkdir()
    (tmp_path / "one" / "real" / "problems" / "a.jsonl").write_text("{}")
    path = kept.keep(tmp_path / "one" / "real")
    assert kept.restore(tmp_path / "two" / "real")
    assert files(tmp_path / "two" / "real") == records
    assert path.stat().st_size < 1000


def test_the_same_records_are_the_same_bytes(kept, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill(tmp_path / name / "real")
    first = kept.keep(tmp_path / "one" / "real").read_bytes()
    assert kept.keep(tmp_path / "two" / "real").read_bytes() == first


def test_what_is_there_is_not_replaced(kept, tmp_path: Path) -> None:
    fill(tmp_path / "real")
    kept.keep(tmp_path / "real")
    (tmp_path / "real" / "tune.jsonl").write_text("newer\n")
    assert not kept.restore(tmp_path / "real")
    assert (tmp_path / "real" / "tune.jsonl").read_text() == "newer\n"
    assert not kept.restore(tmp_path / "nothing")


def test_records_that_are_too_large_are_not_kept(kept, tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "real")
    monkeypatch.setattr(kept, "LARGEST", 10)
    with pytest.raises(SystemExit, match="more than 10"):
        kept.keep(tmp_path / "real")
    assert not kept.archive_of(tmp_path / "real").exists()
