"""Models that other programs on this machine have downloaded: Ollama's and LM Studio's.

`ollama:qwen2.5-coder:1.5b` and `lmstudio:publisher/model/file.gguf` name them as those programs do.
Their files are read where they lie, and nothing is written there.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from stet.core.errors import LoadError

OLLAMA = "ollama:"
LM_STUDIO = "lmstudio:"

_LISTED = 10  # models, in a message
_PART = re.compile(r"[\w.-]+")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_WEIGHTS = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"


def place_of(name: str) -> str:
    """The path of a model that a store holds; any other name as it is.

    Raises:
        LoadError: the store, or the model, is not there; the message lists those that are.
    """
    if name.startswith(OLLAMA):
        return str(_from_ollama(name.removeprefix(OLLAMA), name))
    if name.startswith(LM_STUDIO):
        return str(_from_lm_studio(name.removeprefix(LM_STUDIO), name))
    return name


# Ollama: a manifest for each model names its layers, which lie side by side by their checksums.


def _ollama() -> Path:
    """The folder of Ollama's models: the one that is set, the user's, or the service's."""
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    places = [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    return next((place for place in places if place.is_dir()), places[0])


def _from_ollama(model: str, name: str) -> Path:
    store = _ollama()
    path, _, tag = model.partition(":")
    parts = [*path.split("/"), tag or "latest"]
    # A name without a publisher is one of the library's, one without a host is the registry's.
    parts = ["library"] * (len(parts) == 2) + parts
    parts = ["registry.ollama.ai"] * (len(parts) == 3) + parts
    usual = len(parts) == 4 and all(_PART.fullmatch(p) and p.strip(".") for p in parts)
    manifest = store.joinpath("manifests", *parts) if usual else None
    if manifest is None or not manifest.is_file():
        raise LoadError(f"Ollama has no model {name} in {store}{_others(_ollama_names(store))}.")
    try:
        layers: Any = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        found = {layer["mediaType"]: str(layer["digest"]) for layer in layers}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{manifest} cannot be read as a manifest of Ollama's.") from error
    if _ADAPTER in found:
        raise LoadError(
            f"{name} is a model with an adapter, which Stet does not take from Ollama; give the "
            "adapter's folder, as peft saved it."
        )
    digest = _DIGEST.fullmatch(found.get(_WEIGHTS, ""))
    if digest is None:
        raise LoadError(f"{name} has no GGUF file in Ollama's store; choose another model.")
    blob = store / "blobs" / f"sha256-{digest[1]}"
    if not blob.is_file():
        raise LoadError(f"Ollama's store lacks the weights of {name}; run ollama pull {model}.")
    return blob


def _ollama_names(store: Path) -> list[str]:
    """The models of Ollama's store, as it calls them."""
    root = store / "manifests"
    found = [path.relative_to(root).parts for path in sorted(root.glob("*/*/*/*"))]
    return [
        OLLAMA + f"{host}/{who}/{model}:{tag}".removeprefix("registry.ollama.ai/library/")
        for host, who, model, tag in found
    ]


# LM Studio: folders of publishers, with folders of models, with files.


def _lm_studio() -> Path:
    """The folder of LM Studio's models."""
    user = Path.home()
    homes = [user / ".lmstudio", user / ".cache/lm-studio"]
    pointer = user / ".lmstudio-home-pointer"
    if pointer.is_file():
        homes.insert(0, Path(pointer.read_text(encoding="utf-8", errors="replace").strip()))
    home = next((place for place in homes if place.is_dir()), homes[0])
    try:
        settings: Any = json.loads((home / "settings.json").read_text(encoding="utf-8"))
        chosen = settings.get("downloadsFolder")
    except (OSError, ValueError, AttributeError):
        chosen = None
    return Path(chosen) if isinstance(chosen, str) and chosen else home / "models"


def _from_lm_studio(model: str, name: str) -> Path:
    store = _lm_studio()
    parts = model.split("/")
    path = store.joinpath(*parts)
    if not all(part.strip(".") for part in parts) or not path.exists():
        files = (file.relative_to(store) for file in sorted(store.glob("*/*/*.gguf")))
        names = [f"{LM_STUDIO}{file.as_posix()}" for file in files]
        raise LoadError(f"LM Studio has no model {name} in {store}{_others(names)}.")
    return path


def _others(names: list[str]) -> str:
    """The end of a sentence: what there is instead."""
    if not names:
        return ", and none at all"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; it has {', '.join(names[:_LISTED])}{more}"
