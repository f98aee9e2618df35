"""A model that is ready to be driven by a runner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from stet.bundled import TARGET

Role = Literal["target", "draft"]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer of a model caches per token, and how it attends.

    Attributes:
        query_heads: number of query heads.
        key_heads: number of key (and value) heads.
        key_size: elements of a key.
        value_size: elements of a value.
        dtype: dtype of keys and values.
        device: device on which the layer runs.
        window: length of its sliding window; None for full attention.
        scaling: factor of the scores; 1 / sqrt(key_size) when None.
        softcap: scores are squashed to (-softcap, softcap) by tanh; None for no cap.
    """

    query_heads: int
    key_heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device
    window: int | None = None
    scaling: float | None = None
    softcap: float | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes of cache for one token of one row."""
        return self.key_heads * (self.key_size + self.value_size) * self.dtype.itemsize


class Body(Protocol):
    """A model without its head."""

    def reserve(self, length: int) -> None:
        """Prepare for sequences of up to `length` tokens, before the first of them."""

    def tensors(self) -> Iterator[Tensor]:
        """Tensors that passes read, and that a compiler has to be told stay where they are."""
        ...

    def __call__(self, tokens: Tensor, positions: Tensor, view: Any) -> Tensor:
        """Compute the last hidden state, [B, T, D].

        Args:
            tokens: [B, T] int64.
            positions: [B or 1, T] int64.
            view: the `CacheView` of the pass, which takes its keys and values.
        """
        ...


def device_of(layer: nn.Module) -> torch.device:
    """The device of a layer's weights, plain or packed."""
    tensors: Iterator[Tensor] = chain(layer.parameters(), layer.buffers())
    return next(tensors).device


@dataclass(frozen=True, slots=True)
class LogitHead:
    """How a model turns its last hidden state into logits.

    Attributes:
        linear: the output embedding.
        factor: logits are multiplied by it.
        softcap: logits are then squashed to (-softcap, softcap) by tanh.
        size: logits from here on belong to no token and are cut off; None: all are kept.
    """

    linear: nn.Module
    factor: float = 1.0
    softcap: float | None = None
    size: int | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Compute logits [..., V] of hidden states [..., D].

        The hidden states are passed as a matrix: given a slice of a longer pass, whose strides do
        not let its first dimensions be taken for one, `linear` would copy the whole weight for each
        of its rows.
        """
        logits: Tensor = self.linear(hidden.reshape(-1, hidden.shape[-1]))
        if self.size is not None:
            # The product is cut, not the weight: accelerators are faster at even widths.
            logits = logits[:, : self.size]
        logits = logits.unflatten(0, hidden.shape[:-1])
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A checked model with its tokenizer; made by `load_model` or `prepare_model`.

    Attributes:
        model: the transformers model, its attention set to Stet's.
        tokenizer: its tokenizer; None where none is needed.
        name: folder, file or hub name it was loaded from.
        revision: git revision on the hub, where one was asked for.
        role: the role that it was loaded for.
        max_length: the most tokens a sequence may have; None when the model sets no limit.
        layers: what each attention layer caches per token.
        vocab_size: number of tokens that it can read and write and its tokenizer knows, which is
            the width of its logits here. Many models pad their vocabulary; such rows mean nothing.
        rows: ids for which there is a row both in its embedding and in its head.
        body: the model without its head, when `head` is known; otherwise None. It is Stet's own
            decoder, on the weights of `model`, or transformers' module.
        head: the head by itself; None when only the whole model gives right logits.
        foreign: why passes go through transformers' module; None where Stet's own decoder runs
            them.
        adapter: hash of the adapter that was merged into its weights; None without one.
        quantize: the format that its weights were rounded to when it was loaded; None: none.
        native: the most new tokens of a row in a pass whose attention goes through the compiled
            kernel, on a CPU; 0 where torch always attends.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    role: Role
    max_length: int | None
    layers: tuple[LayerShape, ...]
    vocab_size: int
    rows: int
    body: Body | None
    head: LogitHead | None
    foreign: str | None
    adapter: str | None = None
    quantize: str | None = None
    native: int = 0

    def resized(self, size: int) -> LoadedModel:
        """Return this model with a vocabulary of another size, at most `rows`."""
        head = self.head if self.head is None else replace(self.head, size=size)
        return replace(self, vocab_size=size, head=head)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, revision, dtype and format, as traces and results record them."""
        path = Path(self.name)
        # A folder or file is named by its last part: a trace tells what ran, not where it lay.
        name = f"bundled/{path.name}" if path.parent == TARGET.parent else path.name
        name = name if path.expanduser().exists() else self.name
        found = {"name": name, "revision": self.revision, "dtype": str(self.dtype)}
        return found if self.quantize is None else found | {"quantize": self.quantize}

    @property
    def device(self) -> torch.device:
        """The device that token ids are given on."""
        return device_of(self.model.get_input_embeddings())

    @property
    def packed(self) -> bool:
        """Whether its matrices are kept packed, so that passes go through kernels."""
        return any(getattr(part, "packed", None) is not None for part in self.model.modules())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation."""
        return self.layers[0].dtype

    @property
    def parameter_bytes(self) -> int:
        """Bytes of weights and buffers, shared ones counted once."""
        tensors = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(t.nbytes for t in tensors.values())
