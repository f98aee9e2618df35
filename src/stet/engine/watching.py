"""What the draft looked at while it wrote: attention weights, without a second pass.

A fused attention kernel keeps no weights. Instead the rotated queries of a few layers are recorded
as they go by (`attend` in `stet.engine.attention`), one for each drafted token, and when a stretch
of drafting is over the weights of all of them are computed at once from the cached keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stet.engine.attention import additive_mask
from stet.engine.forward import last_true
from stet.engine.kv_cache import KVCache
from stet.needs import Watch
from stet.row import Row
from stet.tensors import upload


@dataclass(frozen=True, slots=True, eq=False)
class LayerQueries:
    """The queries of one attention layer, and how it makes weights of them.

    Attributes:
        layer: its index in the model.
        query: [B, query heads, T, size], rotated.
        scaling: factor of the scores; 1 / sqrt(size) when None.
        window: length of its sliding window; None for full attention.
        softcap: scores are squashed to (-softcap, softcap) by tanh; None: they are not.
    """

    layer: int
    query: Tensor
    scaling: float | None
    window: int | None
    softcap: float | None


class Recorder:
    """Keeps the queries of one forward pass.

    Args:
        first: the first layer whose queries are kept; those after it are kept too.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self.layers: list[LayerQueries] = []

    def add(
        self,
        layer: int,
        query: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> None:
        """Take in what an attention layer was called with."""
        if layer >= self._first:
            self.layers.append(LayerQueries(layer, query, scaling, window, softcap))


class Watcher:
    """Collects the queries of a stretch of drafting, pass by pass, and computes their weights.

    Args:
        watch: what is asked for.
        cache: the draft's.
        device: where results go.
    """

    def __init__(self, watch: Watch, cache: KVCache, device: torch.device) -> None:
        self._watch = watch
        self._cache = cache
        self._device = device
        self._passes: list[tuple[LayerQueries, ...]] = []
        self._counts: list[Sequence[int]] = []
        self._masks: dict[tuple[int | None, torch.device], Tensor] = {}

    def add(self, queries: tuple[LayerQueries, ...], counts: Sequence[int]) -> None:
        """Take in a pass that drew one token for each row.

        Args:
            queries: of the pass, as `Forward` has them.
            counts: true tokens of each row in it; the query at the last of them drew the token.
        """
        self._passes.append(queries)
        self._counts.append(counts)

    def attention(self, rows: Sequence[Row], starts: Sequence[int]) -> dict[float, Tensor]:
        """The weights from which K passes drew their tokens.

        Args:
            rows: B rows of the cache, which must hold all that was fed.
            starts: position of the query that drew each row's first token.

        Returns:
            For each of the floors asked for [B, layers, K, S] float32 over the positions
            0 .. S - 1, averaged over heads. Entry k of row b belongs to the query at position
            `starts[b] + k` and is 0 after it. Entries after a row's last draw mean nothing.
        """
        self._masks.clear()
        length = max(row.valid for row in rows)
        found: dict[float, list[Tensor]] = {floor: [] for floor in sorted(self._watch.floors)}
        for of_layer in zip(*self._passes, strict=True):
            weights = self._weights(of_layer, rows, starts, length)
            for floor, means in found.items():
                means.append(_mean(weights, floor).to(self._device))
        return {floor: torch.stack(means, 1) for floor, means in found.items()}

    def _weights(
        self,
        passes: Sequence[LayerQueries],
        rows: Sequence[Row],
        starts: Sequence[int],
        length: int,
    ) -> Tensor:
        """[B, query heads, K, S] of one layer."""
        layer = passes[0]
        # In float32 whatever the model computes in: its kernels accumulate in float32 as well.
        drawing = [
            last_true(p.query.transpose(1, 2), counts)
            for p, counts in zip(passes, self._counts, strict=True)
        ]
        query = torch.cat(drawing, 1).transpose(1, 2).float()
        key = _keys(self._cache.keys[layer.layer], rows, length).float()
        batch, heads, count, size = query.shape
        groups = heads // key.shape[1]
        factor = size**-0.5 if layer.scaling is None else layer.scaling
        # Heads that share a key head become more queries of it, so that keys are never repeated.
        query = query.reshape(batch, -1, groups * count, size)
        scores = torch.matmul(query, key.transpose(2, 3)) * factor
        if layer.softcap is not None:
            scores = torch.tanh(scores / layer.softcap) * layer.softcap
        scores = scores.reshape(batch, heads, count, length)
        return (scores + self._mask(starts, count, length, layer.window, key.device)).softmax(-1)

    def _mask(
        self,
        starts: Sequence[int],
        count: int,
        length: int,
        window: int | None,
        device: torch.device,
    ) -> Tensor:
        """[B, 1, K, S], made once for all layers that share it."""
        mask = self._masks.get((window, device))
        if mask is None:
            steps = torch.arange(count, device=device)
            positions = upload(list(starts), device)[:, None] + steps
            slots = torch.arange(length, device=device)
            mask = additive_mask(positions, slots, 1, window, torch.float32)
            self._masks[window, device] = mask
        return mask


def _mean(weights: Tensor, floor: float) -> Tensor:
    """Mean over heads, of what reaches the floor: [B, heads, K, S] to [B, K, S]."""
    if floor > 0:
        # Many times faster than filling by a mask.
        weights = F.threshold(weights, floor, 0.0)
    return weights.mean(1)


def _keys(keys: Tensor, rows: Sequence[Row], length: int) -> Tensor:
    """[B, key heads, S, size]: the first slots of some rows, a view where they are neighbours."""
    first = rows[0].index
    if all(row.index == first + b for b, row in enumerate(rows)):
        return keys[first : first + len(rows), :, :length]
    index = upload([row.index for row in rows], keys.device)
    return keys[:, :, :length].index_select(0, index)
