"""Models that other programs have downloaded are found where those programs keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stet.core.errors import LoadError
from stet.models import load_model
from stet.models.stores import place_of

pytestmark = pytest.mark.unit

DIGEST = "0123456789abcdef" * 4
LIBRARY = "registry.ollama.ai/library"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return tmp_path


def ollama(store: Path, name: str, digest: str = f"sha256:{DIGEST}", **layers: str) -> Path:
    """Put a model into a store of Ollama's; returns the place of its weights."""
    manifest = store / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"template": f"sha256:{'1' * 64}", "model": digest, **layers}
    entries = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": value, "size": 4}
        for kind, value in kinds.items()
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": entries}))
    blob = store / "blobs" / f"sha256-{DIGEST}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"GGUF")
    return blob


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("ollama:qwen2.5-coder:1.5b", f"{LIBRARY}/qwen2.5-coder/1.5b"),
        ("ollama:llama3", f"{LIBRARY}/llama3/latest"),
        ("ollama:someone/model:q4", "registry.ollama.ai/someone/model/q4"),
        ("ollama:hf.co/someone/model-GGUF:Q4_K_M", "hf.co/someone/model-GGUF/Q4_K_M"),
    ],
)
def test_names_of_ollama(home: Path, name: str, place: str) -> None:
    blob = ollama(home / ".ollama/models", place)
    assert place_of(name) == str(blob)


def test_the_store_that_is_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama(home / ".ollama/models", f"{LIBRARY}/one/latest")
    blob = ollama(home / "other", f"{LIBRARY}/two/latest")
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "other"))
    assert place_of("ollama:two") == str(blob)
    with pytest.raises(LoadError, match=r"no model ollama:one in .*other; it has ollama:two:lat"):
        place_of("ollama:one")


def refused(name: str, *parts: str) -> None:
    with pytest.raises(LoadError) as caught:
        place_of(name)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    for part in parts:
        assert part in sentence


def test_what_ollama_does_not_have(home: Path) -> None:
    refused("ollama:it", "no model ollama:it", "none at all")
    store = home / ".ollama/models"
    ollama(store, f"{LIBRARY}/it/1b")
    ollama(store, "hf.co/a/b/c")
    refused("ollama:it", "it has ollama:hf.co/a/b:c, ollama:it:1b")
    for name in ("ollama:", "ollama:../it:1b", "ollama:a/b/c/d:e", "ollama:../../../blobs:x"):
        refused(name, "no model")
    for number in range(20):
        ollama(store, f"{LIBRARY}/many/{number:02}b")
    refused("ollama:it", "and 12 more")


def test_what_ollama_has_but_stet_cannot_read(home: Path) -> None:
    store = home / ".ollama/models"
    ollama(store, f"{LIBRARY}/it/latest", digest="sha256:../../secret")
    refused("ollama:it", "no GGUF file")
    ollama(store, f"{LIBRARY}/it/latest", adapter=f"sha256:{DIGEST}")
    refused("ollama:it", "an adapter")
    ollama(store, f"{LIBRARY}/it/latest").unlink()
    refused("ollama:it", "lacks the weights", "ollama pull it")
    for text in ("", "[]", "{}", '{"layers": [1]}', '{"layers": 5}'):
        (store / "manifests" / LIBRARY / "it/latest").write_text(text)
        refused("ollama:it", "cannot be read")


def lm_studio(store: Path, name: str) -> Path:
    path = store / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models"])
def test_names_of_lm_studio(home: Path, place: str) -> None:
    path = lm_studio(home / place, "someone/model-GGUF/model-Q4_K_M.gguf")
    assert place_of("lmstudio:someone/model-GGUF/model-Q4_K_M.gguf") == str(path)
    assert place_of("lmstudio:someone/model-GGUF") == str(path.parent)
    refused("lmstudio:someone/else", "it has lmstudio:someone/model-GGUF/model-Q4_K_M.gguf")
    refused("lmstudio:", "no model")
    refused("lmstudio:../../secret", "no model")


def test_where_lm_studio_says_that_its_models_are(home: Path) -> None:
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{home / 'elsewhere'}\n")
    path = lm_studio(home / "elsewhere/models", "a/b/c.gguf")
    assert place_of("lmstudio:a/b/c.gguf") == str(path)
    (home / "elsewhere/settings.json").write_text(json.dumps({"downloadsFolder": str(home / "d")}))
    path = lm_studio(home / "d", "a/b/c.gguf")
    assert place_of("lmstudio:a/b/c.gguf") == str(path)
    (home / "elsewhere/settings.json").write_text("{")
    assert place_of("lmstudio:a/b/c.gguf") == str(home / "elsewhere/models/a/b/c.gguf")


@pytest.mark.parametrize("name", ["someone/model", "./ollama:x", "C:\\models", "folder"])
def test_other_names_are_left_alone(name: str) -> None:
    assert place_of(name) == name


def test_a_model_of_ollama_keeps_its_name(home: Path) -> None:
    pytest.importorskip("gguf")
    import ggufs

    path = ggufs.write(home / "it.gguf", ggufs.build("qwen2"), "qwen2", "Q8_0")
    path.replace(ollama(home / ".ollama/models", f"{LIBRARY}/it/1b"))
    loaded: Any = load_model("ollama:it:1b", role="target", device="cpu")
    assert loaded.identity["name"] == loaded.name == "ollama:it:1b"
