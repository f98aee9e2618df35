"""A decoder: embedding, layers and final norm, in as few operations as torch allows.

It computes what the transformers module does from which it was read (`stet.decoder.reading`), on
the same weights, without that module's hooks and calls: on a small model these cost more than the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from stet.decoder.linear import Linear
from stet.decoder.norm import Norm
from stet.decoder.rotary import Rotary, rotate
from stet.engine.attention import CacheView, attend


@dataclass(slots=True, eq=False)
class Layer:
    """One decoder layer.

    Attributes:
        index: its place among the layers.
        qkv: [N, D] to queries, keys and values, head after head.
        out: the heads' results to [N, D].
        gate_up: [N, D] to the gate and what it multiplies.
        down: their product to [N, D].
        activation: of the gate.
        before_attention: norm of what attention reads.
        after_attention: norm of what it adds; None for none.
        before_mlp: norm of what the rest of the layer reads.
        after_mlp: norm of what that adds; None for none.
        heads_norm: norm of each query and key, with the weights of all heads; None for none.
        heads: query heads.
        key_heads: key heads, and value heads.
        size: elements of a head.
        rotary: which of the decoder's rotary embeddings it uses.
        scaling: factor of the scores.
        window: length of its sliding window; None for full attention.
        softcap: scores are squashed to (-softcap, softcap) by tanh; None for no cap.
        share: factor of what is added to the residual stream.
        attend: the function of attention; the check at load puts another one in its place.
    """

    index: int
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    activation: Callable[[Tensor], Tensor]
    before_attention: Norm
    after_attention: Norm | None
    before_mlp: Norm
    after_mlp: Norm | None
    heads_norm: Norm | None
    heads: int
    key_heads: int
    size: int
    rotary: int
    scaling: float | None
    window: int | None
    softcap: float | None
    share: float = 1.0
    attend: Callable[..., Tensor] = attend

    def __call__(
        self, x: Tensor, factors: tuple[Tensor, Tensor], view: CacheView, batch: int
    ) -> Tensor:
        """Add the layer's part to the residual stream, [N, D] for N tokens of `batch` rows."""
        true = view.true
        heads, turned = self.heads, self.heads + self.key_heads
        qkv = self.qkv(self.before_attention(x))
        if true is not None:
            qkv = true.spread(qkv)
        qkv = qkv.view(batch, -1, turned + self.key_heads, self.size).transpose(1, 2)
        rotated = qkv.narrow(1, 0, turned)
        if self.heads_norm is not None:
            rotated = self.heads_norm(rotated)
        rotate(rotated, factors)
        mixed = self.attend(
            view,
            self.index,
            rotated.narrow(1, 0, heads),
            rotated.narrow(1, heads, self.key_heads),
            qkv.narrow(1, turned, self.key_heads),
            self.scaling,
            self.window,
            self.softcap,
        )
        mixed = mixed.reshape(-1, heads * self.size)
        added = self.out(mixed if true is None else true.take(mixed))
        if self.after_attention is not None:
            added = self.after_attention(added)
        x = x.add_(added, alpha=self.share)
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, -1)
        added = self.down(self.activation(gate).mul_(up))
        if self.after_mlp is not None:
            added = self.after_mlp(added)
        return x.add_(added, alpha=self.share)


@dataclass(slots=True, eq=False)
class Decoder:
    """A decoder without its head.

    Attributes:
        embedding: tokens [N] to [N, D].
        scale: factor of the embedding.
        rotaries: the rotary embeddings.
        layers: the layers.
        norm: the norm of the last hidden state.
    """

    embedding: Callable[[Tensor], Tensor]
    scale: float
    rotaries: list[Rotary]
    layers: list[Layer]
    norm: Norm

    def reserve(self, length: int) -> None:
        """Prepare for sequences of `length` tokens."""
        for rotary in self.rotaries:
            rotary.reserve(length)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that passes read and that stays where it is."""
        return _tensors(self)

    def __call__(self, tokens: Tensor, positions: Tensor, view: CacheView) -> Tensor:
        """Compute the last hidden state; see `stet.core.model.Body`."""
        (batch, count), true = tokens.shape, view.true
        flat = tokens.flatten()
        x = self.embedding(flat if true is None else true.take(flat))
        if self.scale != 1.0:
            x = x * self.scale
        factors = [rotary.at(positions) for rotary in self.rotaries]
        for layer in self.layers:
            x = layer(x, factors[layer.rotary], view, batch)
        x = self.norm(x)
        return (x if true is None else true.spread(x)).view(batch, count, -1)


def _tensors(part: Any) -> Iterator[Tensor]:
    """The tensors in a part of a decoder."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, list):
        for item in part:
            yield from _tensors(item)
    elif is_dataclass(part):
        for entry in fields(part):
            yield from _tensors(getattr(part, entry.name))
