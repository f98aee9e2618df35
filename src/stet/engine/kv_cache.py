"""Storage for keys and values: one pair of tensors per layer, made once, written in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stet.core.errors import CapacityError
from stet.core.model import LayerShape


class KVCache:
    """The keys and values of all rows of one model.

    Tensors are [rows, key heads, capacity + 1, size]; the last slot is reserved: pads are written
    there and nothing ever reads it. New memory is zeroed, since a NaN would get through a mask
    (0 * NaN is NaN).

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
        self.keys = [self._empty(s, s.key_size, self.capacity) for s in self.layers]
        self.values = [self._empty(s, s.value_size, self.capacity) for s in self.layers]

    def _empty(self, layer: LayerShape, size: int, capacity: int) -> Tensor:
        shape = (self.rows, layer.key_heads, capacity + 1, size)
        return torch.zeros(shape, dtype=layer.dtype, device=layer.device)

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
        for index, layer in enumerate(self.layers):
            for tensors, size in ((self.keys, layer.key_size), (self.values, layer.value_size)):
                larger = self._empty(layer, size, capacity)
                # Without the reserved slot, which becomes a normal slot.
                larger[:, :, :old] = tensors[index][:, :, :old]
                tensors[index] = larger
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

    def clear(self, row: int, start: int = 0, stop: int | None = None) -> None:
        """Zero the slots [start, stop) of a row; to the end, reserved slot included, if None."""
        for tensor in (*self.keys, *self.values):
            tensor[row, :, start:stop] = 0
