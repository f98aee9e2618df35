"""Stet's own decoder while a check watches what each of its layers reads and attends to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from stet.core.tensors import TruePlaces
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
        counts = [part.count for part in check.parts]
        width = max(counts)
        # Where pads are left out, x holds the true tokens alone.
        packed = len(x) < width * len(counts)
        true = TruePlaces.of(counts, width, x.device) if packed else None
        padded = x if true is None else true.spread(x)
        given = check.replaced(padded.view(len(counts), width, -1))
        if given is None:
            return inner(x)
        given = given.view_as(padded)
        return inner(given if true is None else true.take(given))

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
