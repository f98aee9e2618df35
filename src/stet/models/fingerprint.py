"""Fingerprints of pairs: a policy that is fitted to one pair cannot be used with another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
        tensors = {**dict(model.model.named_parameters()), **dict(model.model.named_buffers())}
        # Buffers too: quantised weights and their scales are buffers. But not values computed at
        # load, where two machines may differ in a last bit.
        saved = set(model.model.state_dict())
        for name in sorted(saved & tensors.keys()):
            weight = tensors[name]
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            if weight.device.type != "meta":
                digest.update(_sample(weight.detach()))
    return digest.hexdigest()[:16]


def _sample(weight: Tensor) -> bytes:
    """The bytes of some elements of a tensor."""
    flat = weight.flatten()
    step = max(flat.numel() // _SAMPLED, 1)
    return flat[::step][:_SAMPLED].cpu().contiguous().view(torch.uint8).numpy().tobytes()
