"""A model's folder: the files that are read, and the memory that their weights will take."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import torch

from stet.core.errors import LoadError, MemoryPlanError
from stet.models.gguf.header import MAGIC
from stet.models.memory import available_bytes, readable

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONGEST_HEADER = 100_000_000
_LISTED = 10  # files, in a message


def folder_of(name: str) -> Path | None:
    """The folder that a name refers to, checked for files; None for a name on the hub.

    Raises:
        LoadError: the folder does not exist, or lacks files.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise LoadError(f"There is no folder {name}; check the path of the model.")
        return None
    if not path.is_dir():
        raise LoadError(f"{name} is a file; give the folder that holds config.json.")
    if (path / ADAPTER).is_file() and not has_weights(path):
        return path  # an adapter alone, whose base is elsewhere
    if not (path / "config.json").is_file():
        raise LoadError(f"{name} has no config.json; give the folder of a transformers model.")
    if has_weights(path):
        return path
    others = sorted(found.name for found in path.glob("*.safetensors"))
    if others:
        raise LoadError(
            f"{name} has neither {WEIGHTS} nor {INDEX}, which transformers reads, but {others[0]}; "
            "save the model again with transformers' save_pretrained."
        )
    if any(p for pattern in _PICKLES for p in path.glob(pattern)):
        raise LoadError(
            f"{name} has only pickled weights, which can run code when opened; save it again "
            "with transformers' save_pretrained to get safetensors files."
        )
    raise LoadError(f"{name} has no *.safetensors file; download the weights.")


def gguf_of(name: str) -> Path | None:
    """The GGUF file that a name refers to: a file, or the only one of a folder; None if neither.

    A folder of transformers' own files is taken for what they are, whatever else is in it.

    Raises:
        LoadError: the folder holds several GGUF files; the message lists them.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" or _begins_with(path, MAGIC) else None
    if not path.is_dir() or has_weights(path) or (path / ADAPTER).is_file():
        return None
    found = [file for file in sorted(path.glob("*.gguf")) if not _further(file.name)]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:_LISTED])
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise LoadError(f"{name} holds several GGUF files; name one of {names}{more}.")
    return found[0] if found else None


def _further(name: str) -> bool:
    """Whether a GGUF file is no model of its own: a later part, or a model's image encoder."""
    part = re.search(r"-(\d{5})-of-\d{5}\.gguf$", name)
    return name.startswith("mmproj") or (part is not None and int(part[1]) != 1)


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's own weights, under a name that transformers reads."""
    if not (folder / "config.json").is_file():
        return False
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX, _named(folder)))


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights that transformers reads, without others in the folder.

    Raises:
        LoadError: the index cannot be read, or a file that it names does not exist.
    """
    named = _named(folder)
    first = next((folder / n for n in (named, WEIGHTS, INDEX) if (folder / n).is_file()), None)
    if first is None or first.suffix != ".json":
        return [] if first is None else [first]
    try:
        table: dict[str, str] = json.loads(first.read_text(encoding="utf-8"))["weight_map"]
        files = [folder / name for name in sorted(set(table.values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{first} cannot be read as an index of weights; get it again.") from error
    for file in files:
        if not file.is_file():
            raise LoadError(f"{folder} lacks {file.name}, which its index names; download it.")
    return files


def _named(folder: Path) -> str:
    """The file of weights that a configuration names; the usual one where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = config.get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        named = None
    return named if isinstance(named, str) else WEIGHTS


def check_room(size: int, name: str, device: torch.device) -> None:
    """Refuse weights that do not fit into memory, before reading them.

    Args:
        size: bytes that they will take.
        name: the model's name, for the message.
        device: where they are to be.

    Raises:
        MemoryPlanError: they do not fit; the message has both sizes.
    """
    free = available_bytes(device)
    if size > free:
        raise MemoryPlanError(
            f"The weights of {name} take {readable(size)} and {readable(free)} are free on "
            f"{device}; use a smaller or quantised model, or another device."
        )


def loaded_bytes(
    file: Path, config: Any, dtype: str | torch.dtype, quantize: str | None = None
) -> int:
    """Bytes that the weights of a safetensors file take once they are loaded.

    Weights in the dtype asked for are only mapped, and take no memory until they are read: those
    that are quantised are read one by one. Others are converted first, all of them.

    Args:
        file: the file, of which only the header is read.
        config: the model's configuration.
        dtype: the dtype asked for; "auto": that of the configuration, or as stored.
        quantize: the format that matrices are rounded to; None: they are not.
    """
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or "auto"
    converts = isinstance(dtype, torch.dtype) and not getattr(config, "quantization_config", None)
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError
            header: dict[str, Any] = json.loads(stream.read(length))
        size = 0
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            stored = entry["dtype"]
            if quantize is not None and dtype in ("auto", _TYPES.get(stored)) and _is_matrix(key):
                bits = 8.5 if quantize == "int8" or not key.endswith("_proj.weight") else 4.625
                size += int(prod(entry["shape"]) * bits / 8)
                continue
            size += end - start
            if converts and stored in _SIZES:
                assert isinstance(dtype, torch.dtype)
                size += prod(entry["shape"]) * (dtype.itemsize - _SIZES[stored])
    except (ValueError, KeyError, TypeError, AttributeError):
        return file.stat().st_size  # a broken file; loading it will raise an error
    return size


def _is_matrix(key: str) -> bool:
    """Whether a weight is one that is quantised, in the families whose models can be."""
    return key.endswith(("_proj.weight", "lm_head.weight", "embed_tokens.weight"))
