"""Attention over the preallocated cache, for Stet's own decoder and for transformers' models.

A forward pass hands the model one `CacheView`. Stet's decoder gives it to `attend`. A transformers
model, which calls `attend_in_transformers` in place of its own attention, passes it around under
two names: as `past_key_values`, whose `update` writes the new keys and values into the cache, and
as the keyword `stet_view`, which says which rows and how many slots of the cache to read.

The mask is built here, from positions and the layer's own window, because a mask made outside would
be used for every layer alike and sliding-window models would come out wrong. For the same reason no
mask function is registered with transformers.

Attention is captured here for signals (how much a token attends to the prompt): queries come in
rotated, and a view with a recorder keeps those of its last layers. The weights are computed from
them later, for these layers alone (`stet.engine.attention_capture`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from stet.core.tensors import TruePlaces
from stet.engine.masks import AlignedMasks, additive_mask
from stet.kernels.attention import NativePass

if TYPE_CHECKING:
    from stet.engine.attention_capture import Recorder

NAME = "stet"
"""Name of `attend_in_transformers` in their `AttentionInterface`."""

_NO_MASK = object()


@dataclass(slots=True, eq=False)
class Span:
    """Rows of a batch that are attended together.

    Attributes:
        first: first row of the span in the batch.
        last: one past its last row in the batch.
        length: how many tokens of each row are read.
        positions: [B or 1, T] positions of the queries of the span; None where all rows end at
            `length`, without pads, so that one mask serves all and depends only on T.
        slots: [B, length] int64 slots of the cache that are read; None for a slice of it.
        start: the first slot of that slice, for a single row.
        read: its keys and values, [length, key heads, size] per layer, cut out of all layers.
        masks: the masks made in this pass.
    """

    first: int
    last: int
    length: int
    positions: Tensor | None
    slots: Tensor | None = None
    start: int | None = None
    read: tuple[list[Tensor], list[Tensor]] | None = None
    masks: dict[tuple[int | None, int], Tensor | None] = field(default_factory=lambda: {})


class CacheView:
    """The cache for one forward pass: where its keys go, and what its rows attend to.

    It has the few methods that transformers models call on `past_key_values`.

    Attributes:
        keys: per layer [all slots, key heads, key size].
        values: per layer [all slots, key heads, value size].
        spans: the rows of the batch, divided into spans.
        masks: source of the masks of aligned spans.
        slots: [S] int64, 0 .. S-1, at least as long as the longest span.
        written: where the new keys and values go, per layer, when they are a slice of the cache;
            otherwise None.
        places: [B * T] int64 slots that the new keys go to; used when `written` is None.
        recorder: keeps the queries of the pass; None where they are not needed.
        native: attends by the compiled kernel; None where torch does.
        true: where the batch's true tokens are, if all but attention is to leave out the pads; None
            if pads are computed, too.
        symbolic: the pass is being traced by a compiler for all lengths, so that nothing may depend
            on the lengths it is traced with. The view holds this flag because whether a compiler
            is at work is state of the whole process, and may concern another thread.
    """

    is_compileable = True
    is_sliding: tuple[bool, ...] = ()

    __slots__ = (
        "keys",
        "masks",
        "native",
        "places",
        "recorder",
        "slots",
        "spans",
        "symbolic",
        "true",
        "values",
        "written",
    )

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        spans: list[Span],
        masks: AlignedMasks,
        slots: Tensor,
        *,
        written: tuple[list[Tensor], list[Tensor]] | None = None,
        places: Tensor | None = None,
        recorder: Recorder | None = None,
        symbolic: bool = False,
    ) -> None:
        self.keys = keys
        self.values = values
        self.spans = spans
        self.masks = masks
        self.slots = slots
        self.written = written
        self.places = places
        self.recorder = recorder
        self.symbolic = symbolic
        self.native: NativePass | None = None
        self.true: TruePlaces | None = None

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values ([B, heads, T, size]); return the layer's whole tensors."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if self.written is not None:
            self.written[0][layer_idx].copy_(key[0].transpose(0, 1))
            self.written[1][layer_idx].copy_(value[0].transpose(0, 1))
        else:
            assert self.places is not None
            # A model spread over several devices keeps each layer's cache where the layer is.
            places = self.places.to(keys.device)
            keys.index_copy_(0, places, key.transpose(1, 2).flatten(0, 1))
            values.index_copy_(0, places, value.transpose(1, 2).flatten(0, 1))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions are always passed explicitly, so no model needs to infer them."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Zero: positions are always passed explicitly."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of a mask, for models that ask for them although no mask is made."""
        return int(self.slots.shape[0]), 0

    def mask(self, span: Span, count: int, groups: int, window: int | None) -> Tensor | None:
        """The mask of a span, made once per pass and window; None when all slots are seen."""
        # Asking for a symbolic length would compile the pass a second time.
        if window is not None and not self.symbolic and span.length <= window:
            window = None
        made = span.masks.get((window, groups), _NO_MASK)
        if made is not _NO_MASK:
            return made  # type: ignore[return-value]
        mask: Tensor | None
        if span.positions is None:
            if count == 1 and window is None:
                mask = None
            else:
                mask = self.masks.get(count, span.length, groups, window)
        else:
            mask = additive_mask(
                span.positions, self.slots[: span.length], groups, window, self.keys[0].dtype
            )
        span.masks[window, groups] = mask
        return mask


def attend(
    view: CacheView,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Write new keys and values into the cache, and attend to it.

    Args:
        view: the view of the cache of this forward pass.
        layer: index of the layer.
        query: [B, query heads, T, size], rotated.
        key: [B, key heads, T, size], rotated.
        value: [B, key heads, T, value size].
        scaling: factor of the scores; 1 / sqrt(size) when None.
        window: see `additive_mask`.
        softcap: scores are squashed to (-softcap, softcap) by tanh.

    Returns:
        [B, T, query heads, value size].
    """
    keys, values = view.update(key, value, layer)
    if view.recorder is not None:
        view.recorder.add(layer, query, scaling, window, softcap)
    return _attend(query, keys, values, scaling, window, softcap, view, layer)


def attend_in_transformers(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    stet_view: CacheView | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to the cache; the function registered with transformers.

    Keyword arguments beyond the ones named here are looked at once, when a model is loaded, and a
    model that passes one which would change the result is refused there.

    Args:
        module: the attention layer.
        query: [B, query heads, T, size], rotated.
        key: [slots, key heads, size], the whole cache of the layer.
        value: [slots, key heads, value size], the whole cache of the layer.
        attention_mask: None, since no mask is ever passed to the model.
        scaling: factor of the scores; 1 / sqrt(size) when None.
        sliding_window: see `additive_mask`.
        softcap: scores are squashed to (-softcap, softcap) by tanh.
        stet_view: the view of the cache of this forward pass.

    Returns:
        [B, T, query heads, value size], and None for the weights, which are not kept.
    """
    if stet_view is None:
        raise RuntimeError(
            "this model was loaded for stet's runner; "
            "call model.set_attn_implementation('sdpa') to use it by itself"
        )
    if stet_view.recorder is not None:
        layer: Any = module.layer_idx
        stet_view.recorder.add(layer, query, scaling, sliding_window, softcap)
    return _attend(query, key, value, scaling, sliding_window, softcap, stet_view, None), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    view: CacheView,
    layer: int | None,
) -> Tensor:
    """Attend by the kernel, or span by span; [B, T, query heads, value size].

    What a span reads is cut out of the layer's whole keys and values, unless it was before; a
    transformers model does not say which layer it is in.
    """
    if view.native is not None:
        return view.native(query, key, value, scaling, window, softcap)
    parts: list[Tensor] = []
    for span in view.spans:
        if span.read is not None and layer is not None:
            keys, values = span.read[0][layer][None], span.read[1][layer][None]
        else:
            keys, values = _cut(key, span), _cut(value, span)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        of_span = query if len(view.spans) == 1 else query[span.first : span.last]
        parts.append(_attend_span(of_span, keys, values, scaling, window, softcap, view, span))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _cut(whole: Tensor, span: Span) -> Tensor:
    """What a span reads of a layer's keys or values, [B, length, key heads, size]."""
    if span.slots is None:
        assert span.start is not None
        return whole[None, span.start : span.start + span.length]
    slots = span.slots.to(whole.device)
    found: Tensor = whole.index_select(0, slots.flatten()).unflatten(0, slots.shape)
    return found


def _attend_span(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    view: CacheView,
    span: Span,
) -> Tensor:
    batch, heads, count, size = query.shape
    key_heads = key.shape[1]
    groups = heads // key_heads
    mask = view.mask(span, count, groups, window)
    if mask is not None:
        mask = mask.to(query.device)
    if groups > 1:
        # Heads that share a key head become more queries of it, so that keys are never repeated.
        query = query.reshape(batch, key_heads, groups * count, size)
    if softcap is None:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    else:
        out = _attend_capped(query, key, value, mask, scaling, softcap)
    if groups > 1:
        out = out.reshape(batch, heads, count, value.shape[-1])
    return out.transpose(1, 2)


def _attend_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Attend with soft-capped scores, which no fused kernel offers."""
    factor: float = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * factor
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype), value)


AttentionInterface.register(NAME, attend_in_transformers)  # pyright: ignore[reportUnknownMemberType]
