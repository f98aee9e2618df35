"""Telling pairs apart: what is fitted to one pair means nothing for another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from stet.remote import RemoteTarget

if TYPE_CHECKING:
    from stet.models.model import LoadedModel

_IGNORED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_SAMPLED = 64


def fingerprint(*models: LoadedModel | RemoteTarget | None) -> str:
    """A short hash of the models' configurations and of samples of their weights.

    The same weights in another folder or dtype are the same model. Of a remote one only the name is
    known.
    """
    digest = hashlib.sha256()
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
        for name, weight in sorted(model.model.named_parameters()):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            if weight.is_floating_point() and weight.device.type != "meta":
                flat = weight.detach().flatten()
                step = max(flat.numel() // _SAMPLED, 1)
                sample = flat[::step][:_SAMPLED].to("cpu", torch.bfloat16).float()
                digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
