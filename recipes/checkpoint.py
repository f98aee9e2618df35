"""Checkpoints: safetensors and JSON, written so that a crash leaves the old one whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from optim import Average
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForCausalLM


def replace_folder(new: Path, place: Path) -> None:
    """Move a finished folder into place; a reader sees the old or the new one."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def save(
    folder: Path,
    model: nn.Module,
    average: Average,
    optimisers: list[torch.optim.Optimizer],
    progress: dict[str, Any],
) -> None:
    """Everything needed to go on: weights, average, optimiser state, counters."""
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"average/{name}": p for name, p in average.weights.items()}
    for i, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{i}/{index}/{key}": value for key, value in state.items()}
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, partial / "state.safetensors")
    (partial / "progress.json").write_text(json.dumps(progress, indent=2) + "\n")
    replace_folder(partial, folder)


def restore(
    folder: Path, model: nn.Module, average: Average, optimisers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Load what `save` wrote into these objects; returns the counters."""
    tensors = load_file(folder / "state.safetensors")
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimisers]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            average.weights[name].copy_(tensors[f"average/{name}"])
    for key, tensor in tensors.items():
        if key.startswith("optimiser/"):
            _, i, index, part = key.split("/")
            states[int(i)].setdefault(int(index), {})[part] = tensor
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    return json.loads((folder / "progress.json").read_text())


def load_export(folder: Path, model: nn.Module) -> None:
    """Load the weights that `export` wrote; the optimisers begin anew.

    Raises:
        SystemExit: they are of a model of another size.
    """
    tensors = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise SystemExit(f"{folder} is of a model of another size: {name} differs")
            parameter.copy_(tensors[name])


def export(
    folder: Path, model: LlamaForCausalLM, weights: dict[str, torch.Tensor], tokenizer: Path
) -> None:
    """A folder that transformers loads by itself, in bfloat16, with its tokenizer.

    The name of the folder's files is all a reader depends on, so it is replaced as a whole.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(weights, strict=False)
    copy.tie_weights()
    copy.generation_config = model.generation_config
    copy.to(torch.bfloat16).save_pretrained(partial)
    (partial / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, partial / name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(partial, folder)
