"""Shortening a model's pass for a while: without most of its matrices, with short windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WINDOW = 5
"""Longer sliding windows are cut to this, since no short text would fill them."""


def repeated(model: Any, modules: Sequence[nn.Module]) -> list[bool]:
    """For each attention layer, whether its decoder layer is like one before it.

    Args:
        model: the model.
        modules: its attention layers.
    """
    first: dict[tuple[type[nn.Module], ...], nn.Module] = {}
    found: list[bool] = []
    for layer in _decoder_layers(model, modules):
        kind = () if layer is None else tuple(type(part) for part in layer.modules())
        found.append(layer is not None and first.setdefault(kind, layer) is not layer)
    return found


def skippable(model: Any, modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Matrices outside attention, in decoder layers that are not the first of their kind."""
    inside = {part for module in modules for part in module.modules()}
    layers = zip(_decoder_layers(model, modules), repeated(model, modules), strict=True)
    for layer, again in layers:
        for part in layer.modules() if layer is not None and again else ():
            if isinstance(part, nn.Linear | Conv1D) and part not in inside:
                yield part


def _decoder_layers(model: Any, modules: Sequence[nn.Module]) -> list[nn.Module | None]:
    """The decoder layer that each attention layer is in; None where it was not found."""
    holders: dict[nn.Module, nn.Module] = {}
    attending = set(modules)
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            found = {inner: layer for layer in stack for inner in attending & set(layer.modules())}
            holders.update(found if len(set(found.values())) > 1 else {})
    return [holders.get(module) for module in modules]


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
