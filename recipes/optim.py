"""Optimiser, learning-rate schedule and moving average."""

from __future__ import annotations

import torch
from config import Recipe
from muon import Muon
from parallel import ALONE, Workers
from torch import nn

WARMUP_STEPS = 100
DECAY_SHARE = 0.35
AVERAGE_SHARE = 0.05
"""The moving average looks back over about this share of the steps taken so far."""


def optimisers(
    model: nn.Module, recipe: Recipe, workers: Workers = ALONE
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the layers, AdamW for embeddings and norms.

    Orthogonalised updates reach the same loss in fewer tokens than those of AdamW alone.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
        (matrices if hidden else others).append(parameter)
    muon = Muon(matrices, recipe.matrix_rate, workers=workers)
    adam = torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def set_rates(chosen: list[torch.optim.Optimizer], step: int, progress: float) -> float:
    """Warm up, hold, and decay to zero over the last part of the budget.

    Args:
        chosen: The optimisers to set.
        step: Optimiser steps taken.
        progress: Share of the budget used, 0 to 1. The decay follows the budget and not the step
            count, so it ends on time on a machine of any speed.

    Returns:
        The factor on the peak rates.
    """
    factor = min(1.0, (step + 1) / WARMUP_STEPS)
    if progress > 1 - DECAY_SHARE:
        factor *= max(0.0, (1 - progress) / DECAY_SHARE)
    for optimiser in chosen:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
    return factor


class Average:
    """An exponential moving average of the weights whose horizon grows with the run."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after this step."""
        new = 1.0 / max(1.0, AVERAGE_SHARE * step)
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter.detach(), new)
