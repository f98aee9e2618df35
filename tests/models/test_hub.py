"""Models of the hub that were downloaded before are found without a network, and at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from families import save
from stet.core.errors import LoadError
from stet.models import hub, load_model

pytestmark = pytest.mark.unit

COMMIT = "0123456789" * 4


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model in the hub's cache, and a hub that does not answer."""
    folder = tmp_path / "models--someone--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    save(folder / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "PATIENCE", 0.5)
    hub._answers.cache_clear()
    yield "someone/model"
    hub._answers.cache_clear()


@pytest.mark.parametrize("offline", [True, False])
def test_a_model_in_the_cache(cached: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    loaded = load_model(cached, role="target", device="cpu")
    assert loaded.identity["name"] == cached
    with pytest.raises(LoadError, match="could not be read .* check the name, the revision and"):
        load_model("someone/else", role="target", device="cpu")
    assert time.monotonic() - start < 20  # with pauses it would be minutes
    assert constants.HF_HUB_OFFLINE is offline


def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        time.sleep(3)

    monkeypatch.setattr("huggingface_hub.get_session", never)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._answers.cache_clear()
    start = time.monotonic()
    with hub.without_waiting(None):
        assert constants.HF_HUB_OFFLINE
    assert time.monotonic() - start < 2
    hub._answers.cache_clear()


def test_a_hub_that_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Session:
        def head(self, address: str, timeout: float) -> str:
            asked.append(address)
            return "an answer"

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "monotonic", lambda: 1e6)
    hub._answers.cache_clear()
    for folder in (None, Path(), None):
        with hub.without_waiting(folder):
            assert not constants.HF_HUB_OFFLINE
    assert asked == [constants.ENDPOINT]
    hub._answers.cache_clear()


def test_a_folder_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_session", lambda: pytest.fail("the hub was asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._answers.cache_clear()
    with hub.without_waiting(Path()):
        assert not constants.HF_HUB_OFFLINE
