"""Stet's own decoder while a check watches what each of its layers reads and attends to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from stet.decoder.decoder import Decoder, Layer
from stet.decoder.linear import Linear
from stet.engine import attention
from stet.engine.attention import CacheView
from stet.models.layerwise import Check


@contextmanager
def watched(
    decoder: Decoder, check: Check, repeated: list[bool], window: int | None
) -> Iterator[None]:
    """Have a check see and replace what each attention layer reads and returns, for a while.

    Args:
        decoder: the decoder.
        check: what compares it with the model's own pass.
        repeated: whether a layer is like one before it; what follows its attention is left out.
        window: sliding windows are cut to this many tokens; None: they stay as they are.
    """
    before = decoder.layers
    decoder.layers = [
        _shortened(_watched(layer, check), again, window)
        for layer, again in zip(before, repeated, strict=True)
    ]
    try:
        yield
    finally:
        decoder.layers = before


def _watched(layer: Layer, check: Check) -> Layer:
    """A copy of a layer whose attention goes through the check."""
    inner = layer.qkv

    def qkv(x: Tensor) -> Tensor:
        assert check.parts is not None
        given = check.replaced(x.view(len(check.parts), -1, x.shape[-1]))
        return inner(x if given is None else given.view_as(x))

    def attend(view: CacheView, index: int, query: Tensor, *rest: Any) -> Tensor:
        out = attention.attend(view, index, query, *rest)
        keys, values = view.keys[index], view.values[index]
        return check.compare(check.modules[index], out, query, keys, values)

    return replace(layer, qkv=qkv, attend=attend)


def _shortened(layer: Layer, repeated: bool, window: int | None) -> Layer:
    """A copy of a layer with a short window, and without most of its matrices if it is repeated."""
    if window is not None and layer.window is not None:
        layer = replace(layer, window=min(layer.window, window))
    if repeated:
        width = layer.before_mlp.weight.shape[-1]
        layer = replace(layer, gate_up=_zeros(2), down=_zeros(width))
    return layer


def _zeros(width: int) -> Linear:
    return lambda x: x.new_zeros((x.shape[0], width))
