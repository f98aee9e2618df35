"""Fingerprints of pairs: a policy that is fitted to one pair cannot be used with another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    digest = hashlib.sha256(b"2")  # of this format
    for model in models:
        if model is None:
            digest.update(b"none")
            continue
        if isinstance(model, RemoteTarget):
            digest.update(f"remote {model.model}".encode())
            continue
        config: dict[str, Any] = model.model.config.to_dict()
        kept = {k: v for k, v in config.items() if k not in _IGNORED and not k.startswith("_attn")}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        digest.update(f"{model.dtype} {model.adapter}".encode())
        weights = _weights(model.model)
        for name in sorted(weights):
            weight = weights[name]
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            if isinstance(weight, BfloatWeight) or weight.device.type != "meta":
                digest.update(_sample(weight))
    return digest.hexdigest()[:16]


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


def _sample(weight: Tensor | BfloatWeight) -> bytes:
    """The bytes of some elements of a weight."""
    if isinstance(weight, BfloatWeight):
        count = weight.shape[0] * weight.shape[1]
        numbers = torch.arange(min(_SAMPLED, count)) * max(count // _SAMPLED, 1)
        picked = weight.elements(numbers)
    else:
        flat = weight.detach().flatten()
        picked = flat[:: max(flat.numel() // _SAMPLED, 1)][:_SAMPLED]
    return picked.cpu().contiguous().view(torch.uint8).numpy().tobytes()
