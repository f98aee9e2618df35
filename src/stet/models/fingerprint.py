"""Fingerprints of pairs: a policy that is fitted to one pair cannot be used with another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stet.core.errors import LoadError
from stet.kernels import BfloatWeight
from stet.remote.target import RemoteTarget

if TYPE_CHECKING:
    from stet.core.model import LoadedModel

_IGNORED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_SAMPLED = 64


def fingerprint(*models: LoadedModel | RemoteTarget | None) -> str:
    """A short hash of models: configurations, adapters, dtypes, and samples of their weights.

    A policy is fitted to a pair's numbers, and these change with the dtype of the computation, the
    format of the weights and an adapter. The same weights in another folder are the same model. A
    remote model is identified by its name only.
    """
    parts: list[Iterable[bytes]] = []
    for model in models:
        if model is None:
            parts.append([b"none"])
        elif isinstance(model, RemoteTarget):
            parts.append([f"remote {model.model}".encode()])
        else:
            config: dict[str, Any] = model.model.config.to_dict()
            weights = _weights(model.model)
            parts.append(_described(config, model.dtype, model.adapter, weights))
    return _hashed(parts)


def fingerprint_of_files(*folders: str | Path, dtype: torch.dtype) -> str:
    """The fingerprint of models that are not loaded, such as those that another engine runs.

    Args:
        folders: a pair's target and draft, in the transformers format with safetensors.
        dtype: in which their weights are used.

    Raises:
        LoadError: the files do not hold the weights as the model has them, such as quantised ones.
    """
    return _hashed([_filed(Path(folder), dtype) for folder in folders])


def _hashed(models: Iterable[Iterable[bytes]]) -> str:
    digest = hashlib.sha256(b"2")  # of this format
    for parts in models:
        for part in parts:
            digest.update(part)
    return digest.hexdigest()[:16]


def _described(
    config: dict[str, Any],
    dtype: torch.dtype,
    adapter: object,
    weights: Mapping[str, Tensor | BfloatWeight],
    used_in: torch.dtype | None = None,
) -> Iterator[bytes]:
    """What a fingerprint is a hash of; `used_in`, where weights are held in another dtype."""
    kept = {k: v for k, v in config.items() if k not in _IGNORED and not k.startswith("_attn")}
    yield json.dumps(kept, sort_keys=True, default=str).encode()
    yield f"{dtype} {adapter}".encode()
    for name in sorted(weights):
        weight = weights[name]
        kind = used_in or weight.dtype
        yield f"{name} {tuple(weight.shape)} {kind}".encode()
        if isinstance(weight, BfloatWeight) or weight.device.type != "meta":
            yield _sample(weight, kind)


def _filed(folder: Path, dtype: torch.dtype) -> Iterator[bytes]:
    """As `_described`, of a folder, of whose weights only what is sampled is read."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    shapes = _weights(model)
    with ExitStack() as stack:
        files = [
            stack.enter_context(safe_open(p, "pt")) for p in sorted(folder.glob("*.safetensors"))
        ]
        holders = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        if getattr(config, "quantization_config", None) or not shapes.keys() <= holders.keys():
            raise LoadError(
                f"{folder} does not hold the weights of its model by their names, so that no "
                "policy can be told to belong to it."
            )
        # Files are mapped into memory: of a weight that is named only what is looked at is read.
        weights = {name: holders[name].get_tensor(name) for name in shapes}
        yield from _described(model.config.to_dict(), dtype, None, weights, dtype)


def _weights(model: Any) -> dict[str, Tensor | BfloatWeight]:
    """Everything that is saved of a model, by name; what is shared under its first name.

    Buffers too: quantised weights and their scales are buffers. But not values computed at load,
    where two machines may differ in a last bit. A weight that was only arranged for a kernel is the
    same as a plain one.
    """
    found: dict[str, Tensor | BfloatWeight] = dict(model.named_parameters())
    seen: set[int] = set()
    for place, module in model.named_modules():
        start = f"{place}." if place else ""
        kept = getattr(module, "packed", None)
        if isinstance(kept, BfloatWeight) and id(kept) not in seen:
            seen.add(id(kept))
            found[f"{start}weight"] = kept
        for name, buffer in module.named_buffers(recurse=False):
            if id(buffer) not in seen and name not in module._non_persistent_buffers_set:
                seen.add(id(buffer))
                found[f"{start}{name}"] = buffer
    return found


def _sample(weight: Tensor | BfloatWeight, dtype: torch.dtype) -> bytes:
    """The bytes of some elements of a weight, in a dtype."""
    if isinstance(weight, BfloatWeight):
        count = weight.shape[0] * weight.shape[1]
        numbers = torch.arange(min(_SAMPLED, count)) * max(count // _SAMPLED, 1)
        picked = weight.elements(numbers)
    else:
        flat = weight.detach().flatten()
        picked = flat[:: max(flat.numel() // _SAMPLED, 1)][:_SAMPLED]
    return picked.to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes()
