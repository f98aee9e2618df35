"""Attention capture: the draft's attention weights, without a second pass.

A fused attention kernel keeps no weights. Instead the rotated queries of a few layers are recorded
during each pass (`attend` in `stet.engine.attention`), one for each drafted token, and when a
stretch of drafting is over the weights of all of them are computed at once from the cached keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from stet.core.needs import AttentionCapture
from stet.core.row import Row
from stet.core.tensors import select_last
from stet.engine.addresses import Addresses, run_of
from stet.engine.kv_cache import KVCache
from stet.engine.masks import additive_mask


@dataclass(frozen=True, slots=True)
class CapturedLayer:
    """How a captured attention layer computes weights from its queries.

    Attributes:
        layer: its index in the model.
        heads: query heads.
        scaling: factor of the scores.
        window: length of its sliding window; None for full attention.
        softcap: scores are squashed to (-softcap, softcap) by tanh; None for no cap.
    """

    layer: int
    heads: int
    scaling: float
    window: int | None
    softcap: float | None


class Recorder:
    """Records the queries of the last layers, in all passes that it is given to.

    Args:
        layers: how many of the last layers are recorded.
        of: how many layers the model has.
        describes: whether to fill `layers`; a graph that is being compiled returns tensors alone.

    Attributes:
        count: how many layers are recorded.
        layers: the recorded layers, ascending; known after the first pass.
        queries: [B, query heads, T, size] each, rotated; `count` per pass, in order.
    """

    def __init__(self, layers: int, of: int, *, describes: bool = True) -> None:
        self.count = min(layers, of)
        self._describes = describes
        self.layers: list[CapturedLayer] = []
        self.queries: list[Tensor] = []
        self._first = of - self.count
        self._alike: list[list[int]] = []

    @property
    def alike(self) -> list[list[int]]:
        """Indices into `layers`, in groups of neighbours that compute weights in the same way."""
        if not self._alike:
            places = range(self.count)
            self._alike = [list(g) for _, g in groupby(places, lambda i: _kind(self.layers[i]))]
        return self._alike

    def add(
        self,
        layer: int,
        query: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> None:
        """Record the query and parameters that an attention layer was called with."""
        place = layer - self._first
        if place >= 0:
            self.queries.append(query)
            if self._describes and len(self.layers) == place:
                heads, size = query.shape[1], query.shape[3]
                factor = size**-0.5 if scaling is None else scaling
                self.layers.append(CapturedLayer(layer, heads, factor, window, softcap))


class AttentionWeights:
    """Computes the attention weights of stretches of drafting, one at a time.

    On a small model the cost is the number of operations, so layers that are alike are computed
    together and tensors that do not change are kept.

    Args:
        cache: the draft's cache.
        device: the device for the results.
    """

    def __init__(self, cache: KVCache, device: torch.device) -> None:
        self._cache = cache
        self._device = device
        self._recorders: dict[int, Recorder] = {}
        self._tables: dict[int | None, Tensor] = {}

    def recorder(self, capture: AttentionCapture) -> Recorder:
        """An empty recorder for all passes of a stretch."""
        found = self._recorders.get(capture.layers)
        if found is None:
            found = Recorder(capture.layers, len(self._cache.layers))
            self._recorders[capture.layers] = found
        found.queries = []
        return found

    def attention(
        self,
        capture: AttentionCapture,
        recorder: Recorder,
        counts: Sequence[int],
        rows: Sequence[Row],
        starts: Sequence[int],
    ) -> dict[float, Tensor]:
        """Compute the attention weights of the queries from which K passes drew their tokens.

        Args:
            capture: the layers and floors that are asked for.
            recorder: was given to the K passes, of which each drew one token for each row, at the
                last of its true tokens. It is empty afterwards.
            counts: true tokens of each row in the first pass; the others had one, if any.
            rows: B rows of the cache, which must hold all that was fed.
            starts: position of the query that drew each row's first token.

        Returns:
            For each of the floors asked for [B, layers, K, S] float32 over the positions
            0 .. S - 1, averaged over heads. Entry k of row b belongs to the query at position
            `starts[b] + k` and is 0 after it. Entries after a row's last draw mean nothing.
        """
        passes, recorder.queries = recorder.queries, []
        ends = [row.valid for row in rows]
        length = max(ends)
        run = run_of(rows[0]) if len(rows) == 1 else None
        slots = None
        if run is None:
            slots = Addresses(rows, self._cache.keys[0].device).read(ends, length, 0, len(rows))
        floors = sorted(capture.floors)
        found: list[list[Tensor]] = []
        for alike in recorder.alike:
            products: list[Tensor] = []
            for at in alike:
                queries = passes[at :: recorder.count]
                if queries[0].shape[2] > 1:
                    queries[0] = select_last(queries[0].transpose(1, 2), counts).transpose(1, 2)
                whole = self._cache.keys[recorder.layers[at].layer]
                if slots is None:
                    assert run is not None
                    key = whole[None, run : run + length]
                else:
                    held = slots.to(whole.device)
                    key = whole.index_select(0, held.flatten()).unflatten(0, held.shape)
                key = key.transpose(1, 2)
                products.append(_products(torch.cat(queries, 2), key).to(self._device))
            layer = recorder.layers[alike[0]]
            found.append(self._means(layer, torch.stack(products, 1), starts, floors))
        if len(found) == 1:
            return dict(zip(floors, found[0], strict=True))
        return {
            floor: torch.cat(of_floor, 1)
            for floor, of_floor in zip(floors, zip(*found, strict=True), strict=True)
        }

    def _means(
        self,
        layer: CapturedLayer,
        products: Tensor,
        starts: Sequence[int],
        floors: Sequence[float],
    ) -> list[Tensor]:
        """Compute the means over heads, [B, layers, K, S], for each floor, ascending.

        Args:
            layer: how all of these layers compute weights from their products.
            products: [B, layers, query heads, K, S].
            starts: position of the query that drew each row's first token.
            floors: the floors, ascending.
        """
        factor = layer.scaling
        if layer.softcap is not None:
            products = torch.tanh(products * (factor / layer.softcap))
            factor = layer.softcap
        *_, count, length = products.shape
        mask = self._mask(starts, count, length, layer.window)
        weights = torch.add(mask, products, alpha=factor).softmax(-1)
        means: list[Tensor] = []
        for floor in floors:
            if floor > 0:  # many times faster than filling by a mask
                weights = torch.threshold_(weights, floor, 0.0)
            means.append(weights.mean(2))
        return means

    def _mask(self, starts: Sequence[int], count: int, length: int, window: int | None) -> Tensor:
        """The additive mask of products: [K, S], or [B, 1, 1, K, S] where rows start differently.

        Masks are slices of one table, in which column `middle` + j is for a slot j ahead of the
        first query.
        """
        table = self._tables.get(window)
        if table is None or table.shape[0] < count or table.shape[1] < 2 * length:
            middle = 2 * length
            queries = torch.arange(max(count, 16), device=self._device)[None] + middle
            slots = torch.arange(2 * middle, device=self._device)
            table = additive_mask(queries, slots, 1, window, torch.float32)[0, 0]
            self._tables[window] = table
        middle = table.shape[1] // 2
        if all(start == starts[0] for start in starts):
            return table[:count, middle - starts[0] : middle - starts[0] + length]
        pieces = [table[:count, middle - start : middle - start + length] for start in starts]
        return torch.stack(pieces)[:, None, None]


def _kind(layer: CapturedLayer) -> tuple[object, ...]:
    """The parameters of a layer that must be equal for layers to be computed together."""
    return layer.heads, layer.scaling, layer.window, layer.softcap


def _products(query: Tensor, key: Tensor) -> Tensor:
    """Compute the products of queries and keys, [B, query heads, K, S].

    They are in float32 whatever the model's dtype: its kernels accumulate in float32 as well.

    Args:
        query: [B, query heads, K, size].
        key: [B, key heads, S, size].
    """
    if query.dtype is not torch.float32:
        query, key = query.float(), key.float()
    batch, heads, count, size = query.shape
    groups = heads // key.shape[1]
    if groups == 1:
        return torch.matmul(query, key.transpose(2, 3))
    # Heads that share a key head become more queries of it, so that keys are never repeated.
    query = query.reshape(batch, -1, groups * count, size)
    return torch.matmul(query, key.transpose(2, 3)).reshape(batch, heads, count, -1)
