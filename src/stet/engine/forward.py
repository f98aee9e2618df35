"""The result of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.core.tensors import upload


@dataclass(frozen=True, slots=True)
class Forward:
    """The result of a forward pass.

    Attributes:
        logits: float32; [B, T, V] for `logits="all"`, [B, 1, V] (at each row's last true token)
            for "last", [B, 0, V] for "none".
        hidden: [B, T, D] last hidden state, before the head; None unless asked for.
    """

    logits: Tensor
    hidden: Tensor | None = None


def select_last(state: Tensor, counts: Sequence[int] | None) -> Tensor:
    """Select the last true position of each row: [B, T, ...] to [B, 1, ...]."""
    batch, width = state.shape[:2]
    if width == 1:
        return state
    if counts is None:
        return state[:, -1:]
    first = max(counts[0], 1)
    if all(c == first for c in counts):
        return state[:, first - 1 : first]
    at = upload([max(c, 1) - 1 for c in counts], state.device)
    return state[torch.arange(batch, device=state.device), at].unsqueeze(1)
