"""Checkpoints of a training: weights, the optimiser's state and the progress, in one file.

One file is replaced as a whole, so that what is in it always belongs together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Weights = Mapping[str, Tensor]
_OPTIMISER, _PROGRESS = "optimiser", "state"


def save_checkpoint(
    path: Path,
    parts: Mapping[str, Weights],
    optimiser: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Replace a checkpoint.

    Args:
        path: the file.
        parts: weights by name, of each part by its name.
        optimiser: its moments are kept; its settings are those of the training.
        progress: anything that JSON holds.
    """
    tensors = {
        f"{part}/{name}": value.detach().cpu().clone()
        for part, weights in parts.items()
        for name, value in weights.items()
    }
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}/{index}/{k}": v.cpu().clone() for k, v in values.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={_PROGRESS: json.dumps(progress)})
    partial.replace(path)


def load_checkpoint(
    path: Path, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint, and give the optimiser its moments back.

    Returns:
        The parts and the progress, as they were saved.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()[_PROGRESS])
        for name in file.keys():  # noqa: SIM118
            part, _, rest = name.partition("/")
            if part == _OPTIMISER:
                index, _, key = rest.partition("/")
                moments.setdefault(int(index), {})[key] = file.get_tensor(name)
            else:
                parts.setdefault(part, {})[rest] = file.get_tensor(name)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return parts, progress


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's weights, which further training does not change."""
    return {name: weight.clone() for name, weight in module.state_dict().items()}
