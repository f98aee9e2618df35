"""Shortening a model's pass for a while: without most of its matrices, with short windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WINDOW = 5
"""Longer sliding windows are cut to this, since no short text would fill them."""


def skippable(model: Any, modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Matrices outside attention, in decoder layers that are not the first of their kind."""
    attending = set(modules)
    layers: list[nn.Module] = []
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            found = [layer for layer in stack if attending.intersection(layer.modules())]
            layers += found if len(found) > 1 else []
    kinds = [tuple(type(part) for part in layer.modules()) for layer in layers]
    for place, layer in enumerate(layers):
        if kinds.index(kinds[place]) == place:
            continue
        inside = {part for module in attending for part in module.modules()}
        for part in layer.modules():
            if isinstance(part, nn.Linear | Conv1D) and part not in inside:
                yield part


@contextmanager
def skip(linear: nn.Module) -> Iterator[None]:
    """Let a matrix return zeros, which costs nothing, inside the `with` block."""
    width = int(linear.out_features if isinstance(linear, nn.Linear) else linear.nf)  # type: ignore[arg-type]
    before = vars(linear).get("forward")

    def zeros(x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], width)

    vars(linear)["forward"] = zeros
    try:
        yield
    finally:
        if before is None:
            del vars(linear)["forward"]
        else:
            vars(linear)["forward"] = before


@contextmanager
def cut_windows(model: Any, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Cut sliding windows, in the configuration and in the layers, inside the `with` block."""
    holders: list[Any] = [model.config.get_text_config(), *modules]
    before = [(h, h.sliding_window) for h in holders if getattr(h, "sliding_window", None)]
    try:
        for holder, window in before:
            holder.sliding_window = min(window, WINDOW)
        yield
    finally:
        for holder, window in before:
            holder.sliding_window = window
