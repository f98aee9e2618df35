"""Storage for keys and values: one pair of tensors per layer, made once, written in place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby

import torch
from torch import Tensor

from stet.core.errors import CapacityError
from stet.core.model import LayerShape

_STACKED = 8
"""The most layers in one tensor, which is held twice while it grows."""


class KVCache:
    """The keys and values of all rows of one model.

    Tensors are [rows, key heads, capacity + 1, size]; the last slot is reserved: pads are written
    there and nothing ever reads it. New memory is zeroed, since a NaN would get through a mask
    (0 * NaN is NaN). Those of neighbouring layers of one shape are parts of one tensor, so that few
    operations cut the same slots out of all of them.

    Attributes:
        keys: the keys, one tensor per layer.
        values: the values, one tensor per layer.
        capacity: tokens that a row can hold without growing.
    """

    FIRST_CAPACITY = 256

    def __init__(
        self, layers: Sequence[LayerShape], *, rows: int, max_length: int, grow: bool
    ) -> None:
        """Make the cache.

        Args:
            layers: shape of each layer.
            rows: number of rows.
            max_length: the most tokens a row may ever hold.
            grow: start small and double on demand; otherwise allocate all of it now, so that
                addresses never change (captured CUDA graphs hold on to them).
        """
        self.layers = tuple(layers)
        self.rows = rows
        self.max_length = max_length
        self.capacity = min(self.FIRST_CAPACITY, max_length) if grow else max_length
        stacks = _stacks(self.layers)
        self._keys = [self._empty(n, s, s.key_size, self.capacity) for n, s in stacks]
        self._values = [self._empty(n, s, s.value_size, self.capacity) for n, s in stacks]
        self._shapes = [shape for _, shape in stacks]
        self.keys = _layers(self._keys)
        self.values = _layers(self._values)

    def _empty(self, count: int, layer: LayerShape, size: int, capacity: int) -> Tensor:
        shape = (count, self.rows, layer.key_heads, capacity + 1, size)
        return torch.zeros(shape, dtype=layer.dtype, device=layer.device)

    def cut(
        self, first: int, last: int, start: int, stop: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The keys and the values, per layer, of rows [first, last) in the slots [start, stop)."""
        keys, values = (
            _layers([stack[:, first:last, :, start:stop] for stack in stacks])
            for stacks in (self._keys, self._values)
        )
        return keys, values

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def ensure(self, length: int) -> bool:
        """Make room for rows of `length` tokens, by doubling.

        Where memory runs out on the way, the content is unchanged, and it can be called again.

        Returns:
            Whether the tensors were replaced by larger ones.

        Raises:
            CapacityError: `length` is more than `max_length`.
        """
        if length <= self.capacity:
            return False
        if length > self.max_length:
            raise CapacityError(
                f"A sequence of {length} tokens does not fit into a cache of {self.max_length}; "
                "raise max_length or shorten the prompt or max_new_tokens."
            )
        old = capacity = self.capacity
        while capacity < length:
            capacity = min(2 * capacity, self.max_length)
        for index, shape in enumerate(self._shapes):
            for stacks, size in ((self._keys, shape.key_size), (self._values, shape.value_size)):
                stack = stacks[index]
                larger = self._empty(stack.shape[0], shape, size, capacity)
                # Without the reserved slot, which becomes a normal slot.
                larger[..., :old, :] = stack[..., :old, :]
                stacks[index] = larger
                self.keys, self.values = _layers(self._keys), _layers(self._values)
        # Only now: a tensor that is larger than the capacity still holds the same content.
        self.capacity = capacity
        return True

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first `length` tokens of row `source` to each of the rows `targets`."""
        if not length:
            return
        for tensor in (*self.keys, *self.values):
            prefix = tensor[source, :, :length]
            for target in targets:
                tensor[target, :, :length] = prefix

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        if not length or one == other:
            return
        for tensor in (*self.keys, *self.values):
            kept = tensor[one, :, :length].clone()
            tensor[one, :, :length] = tensor[other, :, :length]
            tensor[other, :, :length] = kept

    def clear(self, row: int, start: int = 0, stop: int | None = None) -> None:
        """Zero the slots [start, stop) of a row; to the end, reserved slot included, if None."""
        for tensor in (*self.keys, *self.values):
            tensor[row, :, start:stop] = 0


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
