"""Adapters: found in a folder or on the hub, and merged into the weights of their base model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open
from transformers.utils.peft_utils import find_adapter_config_file

from stet.core.errors import CompatibilityError, LoadError, first_line
from stet.models.files import ADAPTER, ADAPTER_WEIGHTS, has_weights

_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", ADAPTER_WEIGHTS]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter and its base model.

    Attributes:
        name: as the user named it.
        folder: the adapter's folder.
        base: folder or hub name of the base model; `folder` itself where both are in one folder.
    """

    name: str
    folder: Path
    base: str

    @property
    def brings_tokenizer(self) -> bool:
        """Whether the adapter's folder holds a tokenizer."""
        names = ("tokenizer.json", "tokenizer_config.json")
        return any((self.folder / name).is_file() for name in names)

    @property
    def identity(self) -> str:
        """A hash of the adapter's settings and weights."""
        digest = hashlib.sha256()
        for name in (ADAPTER, ADAPTER_WEIGHTS):
            with (self.folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:16]


def adapter_of(name: str, folder: Path | None, revision: str | None) -> Adapter | None:
    """The adapter that a folder or a repository on the hub holds; None where there is none.

    Args:
        name: as the user named it.
        folder: the folder of that name; None for a name on the hub.
        revision: revision of the repository.

    Raises:
        LoadError: it lacks files, has only pickled weights, or its base cannot be found.
    """
    if folder is None:
        try:
            if find_adapter_config_file(name, revision=revision) is None:
                return None
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(name, revision=revision, allow_patterns=_SMALL_FILES))
        except Exception:  # being offline raises errors of many kinds
            return None  # a name without an adapter may be that of a model
        is_whole = False
    else:
        is_whole = has_weights(folder)
    weights = folder / ADAPTER_WEIGHTS
    if not (folder / ADAPTER).is_file():
        if weights.is_file():
            raise LoadError(
                f"{name} has {ADAPTER_WEIGHTS} but no {ADAPTER}, without which it cannot be "
                "applied; add that file, or move the adapter's weights away."
            )
        return None
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise LoadError(
                f"{name} has only pickled adapter weights, which can run code when opened; save "
                f"it again with peft's save_pretrained to get {ADAPTER_WEIGHTS}."
            )
        raise LoadError(f"{name} has {ADAPTER} but no {ADAPTER_WEIGHTS}; download it.")
    return Adapter(name, folder, str(folder) if is_whole else _base_of(name, folder))


def _base_of(name: str, folder: Path) -> str:
    """The base model that an adapter's settings name."""
    try:
        settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base = settings.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise LoadError(f"{folder / ADAPTER} cannot be read; get it again.") from error
    if not isinstance(base, str) or not base:
        raise LoadError(
            f"{name} is an adapter, and its {ADAPTER} does not say of which model; add "
            "base_model_name_or_path to it."
        )
    for place in (folder / base, Path(base).expanduser()):
        if place.is_dir():
            return str(place)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise LoadError(
            f"{name} is an adapter for {base}, which is not there; put the model there, or correct "
            f"base_model_name_or_path in its {ADAPTER}."
        )
    return base


@contextmanager
def without_adapter(source: str, adapter: Adapter | None) -> Iterator[str]:
    """A path of the base model from which transformers does not load the adapter.

    transformers adds an adapter in the same folder as a model as further layers, from pickled files
    too. In a folder of links to all other files it does not find the adapter.
    """
    if adapter is None or Path(source) != adapter.folder:
        yield source
        return
    with TemporaryDirectory(prefix="stet-") as view:
        for path in adapter.folder.iterdir():
            if not path.name.startswith("adapter_"):
                try:
                    (Path(view) / path.name).symlink_to(path.resolve())
                except OSError:  # where links are not allowed
                    copy = shutil.copytree if path.is_dir() else shutil.copy2
                    copy(path, Path(view) / path.name)
        yield view


def check_peft(name: str) -> None:
    """Refuse an adapter where peft is not installed.

    Raises:
        LoadError: peft is not installed; the message has the command that installs it.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise LoadError(
            f"{name} is an adapter, which needs peft: pip install 'stet-decoding[adapters]'."
        ) from error


def merge(model: Any, adapter: Adapter) -> Any:
    """Merge an adapter into the weights of a model, and return the model.

    Raises:
        CompatibilityError: an adapter that cannot be merged into the weights.
    """
    from peft import PeftModel

    rows = _embedding_rows(adapter)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        # It was trained with further tokens, and brings the rows for all of them.
        model.resize_token_embeddings(rows, mean_resizing=False)
    device = model.get_input_embeddings().weight.device
    try:
        changed = PeftModel.from_pretrained(
            model, str(adapter.folder), torch_device=str(device), autocast_adapter_dtype=False
        )
        return changed.merge_and_unload(safe_merge=True)
    except Exception as error:  # peft raises errors of many kinds
        raise CompatibilityError(
            f"The adapter {adapter.name} cannot be merged into the weights of {adapter.base} "
            f"({first_line(error)}); merge it with peft and save the whole model, unquantised."
        ) from error


def _embedding_rows(adapter: Adapter) -> int | None:
    """The rows of the embedding that an adapter brings; None where it brings none."""
    with safe_open(adapter.folder / ADAPTER_WEIGHTS, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            if key.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight")):
                return int(file.get_slice(key).get_shape()[0])
    return None
