"""Copying numbers to a device without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Numbers = Sequence[int] | Sequence[float] | Sequence[bool] | Sequence[Sequence[int]]


def upload(values: Numbers, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Make a tensor on `device` of numbers on the host."""
    return move(torch.tensor(values, dtype=dtype), device)


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to `device`.

    A plain copy to a GPU waits for everything that the GPU has yet to do; one from pinned memory
    takes its place in the queue.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def at(tensor: Tensor, position: Tensor) -> Tensor:
    """Pick one position of each row: [B, T, ...] and [B] to [B, ...]."""
    return tensor[torch.arange(tensor.shape[0], device=tensor.device), position]
