"""Storage for keys and values: one pair of tensors per layer, made once, written in place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby

import torch
from torch import Tensor

from stet.core.errors import CapacityError
from stet.core.model import LayerShape
from stet.core.row import PAGE

_STACKED = 8
"""The most layers in one tensor, which is held twice while it grows."""


class KVCache:
    """The keys and values of one model, in slots of a token each; `PAGE` slots are a page.

    Tensors are [slots, key heads, size]. Nothing reads a slot that was not written by whom it
    belongs to: a NaN that another row left there would get through a mask (0 * NaN is NaN). Those
    of neighbouring layers of one shape are parts of one tensor, so that few operations cut the same
    slots out of all of them.

    Args:
        layers: shape of each layer.
        most: the most pages, page 0 among them.
        first: pages to begin with; more are made on demand. None: all are made now, so that
            addresses never change (captured CUDA graphs hold on to them).

    Attributes:
        keys: the keys, one tensor per layer.
        values: the values, one tensor per layer.
        pages: the pages that there are.
    """

    def __init__(
        self, layers: Sequence[LayerShape], *, most: int, first: int | None = None
    ) -> None:
        self.layers = tuple(layers)
        self.most = most
        self.pages = most if first is None else min(first, most)
        stacks = _stacks(self.layers)
        self._keys = [self._empty(n, s, s.key_size, self.pages) for n, s in stacks]
        self._values = [self._empty(n, s, s.value_size, self.pages) for n, s in stacks]
        self._shapes = [shape for _, shape in stacks]
        self.keys = _layers(self._keys)
        self.values = _layers(self._values)

    @staticmethod
    def _empty(count: int, layer: LayerShape, size: int, pages: int) -> Tensor:
        shape = (count, pages * PAGE, layer.key_heads, size)
        return torch.zeros(shape, dtype=layer.dtype, device=layer.device)

    def cut(self, start: int, stop: int) -> tuple[list[Tensor], list[Tensor]]:
        """The keys and the values, per layer, of the slots [start, stop)."""
        keys, values = (
            _layers([stack[:, start:stop] for stack in stacks])
            for stacks in (self._keys, self._values)
        )
        return keys, values

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    @property
    def bytes_per_page(self) -> int:
        """Bytes of a page."""
        return PAGE * sum(layer.bytes_per_token for layer in self.layers)

    def grow(self, pages: int) -> None:
        """Have at least so many pages, by doubling.

        Where memory runs out on the way, the content is unchanged, and it can be called again.

        Raises:
            CapacityError: there may not be so many.
        """
        if pages > self.most:
            raise CapacityError(f"The cache has {self.most} pages, and {pages} are needed.")
        count = self.pages
        while count < pages:
            count = min(2 * count, self.most)
        for index, shape in enumerate(self._shapes):
            for stacks, size in ((self._keys, shape.key_size), (self._values, shape.value_size)):
                stack = stacks[index]
                if stack.shape[1] == count * PAGE:
                    continue
                larger = self._empty(stack.shape[0], shape, size, count)
                larger[:, : stack.shape[1]] = stack
                stacks[index] = larger
                self.keys, self.values = _layers(self._keys), _layers(self._values)
        # Only now: a tensor that is larger than the others still holds the same content.
        self.pages = count

    @torch.inference_mode()
    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy pages to as many others."""
        if not sources:
            return
        for stack in (*self._keys, *self._values):
            paged = stack.unflatten(1, (-1, PAGE))
            if len(sources) == 1:
                paged[:, targets[0]] = paged[:, sources[0]]
            else:
                paged[:, list(targets)] = paged[:, list(sources)]


def _stacks(layers: Sequence[LayerShape]) -> list[tuple[int, LayerShape]]:
    """Divide layers into neighbours of one shape: how many of each, and the first one."""
    found: list[tuple[int, LayerShape]] = []
    for _, alike in groupby(layers, _storage):
        group = list(alike)
        for start in range(0, len(group), _STACKED):
            found.append((len(group[start : start + _STACKED]), group[start]))
    return found


def _storage(layer: LayerShape) -> tuple[object, ...]:
    """What must be equal for layers to be parts of one tensor."""
    return layer.key_heads, layer.key_size, layer.value_size, layer.dtype, layer.device


def _layers(stacks: Sequence[Tensor]) -> list[Tensor]:
    """The parts of tensors, layer by layer."""
    return list(chain.from_iterable(stack.unbind(0) for stack in stacks))
