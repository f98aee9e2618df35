"""The shortlist of a draft's head, for models whose tokenizers number frequent tokens first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from stet.core.head import LogitHead, Shortlist
from stet.core.model import LoadedModel
from stet.kernels import PackedLinear

COUNT = 32_768
"""Frequent tokens in a shortlist; of English text and code they are 93 to 98 % of the tokens."""

_WORTH = 2
"""How many times as large a vocabulary is for which a shortlist is made."""
_MOST_ADDED = 4096
_TILE = 32
"""A part of a packed weight begins at a multiple of so many rows."""


def with_shortlist(model: LoadedModel, count: int = COUNT) -> LoadedModel:
    """Give a draft a shortlist, if its head and its tokenizer allow one.

    It takes no memory: its weights are views. There is none for a vocabulary that is not much
    larger than it would be, for tokenizers that do not number tokens by how early they were merged,
    for heads that are neither plain nor packed, and on accelerators, where nobody has measured it.

    Args:
        model: the draft, its vocabulary of its final size.
        count: number of frequent tokens.
    """
    head = model.head
    if head is None or model.device.type != "cpu" or model.vocab_size < _WORTH * count:
        return model
    if not _is_ranked(model.tokenizer):
        return model
    frequent = _part(head, 0, count)
    if frequent is None:
        return model
    start = _first_added(model.tokenizer, count, model.vocab_size)
    added = _part(head, start, model.vocab_size) if start < model.vocab_size else None
    size = count + model.vocab_size - start
    return replace(model, shortlist=Shortlist(frequent, added, count, start, size))


def _is_ranked(tokenizer: Any) -> bool:
    """Whether a tokenizer numbers tokens by how early pairs were merged, as those of bytes do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(getattr(backend, "model", None)).__name__
    return kind == "BPE"


def _first_added(tokenizer: Any, count: int, size: int) -> int:
    """The id from which on a vocabulary has only added tokens; `size` where it has none there."""
    added: list[int] = sorted(
        index for index in tokenizer.added_tokens_decoder if count <= index < size
    )
    if not added or size - added[0] > _MOST_ADDED:
        return size
    return added[0] // _TILE * _TILE


def _part(head: LogitHead, start: int, stop: int) -> LogitHead | None:
    """The head of the tokens from `start` up to `stop`, as a view; None for an unknown kind."""
    linear = head.linear
    part: nn.Module
    if type(linear) is nn.Linear:
        part = _Rows(linear, start, stop)
    elif type(linear) is PackedLinear and linear.is_native:
        bias = linear.described.bias
        part = PackedLinear(linear.packed.part(start, stop), _cut(bias, start, stop))
    else:
        return None
    return replace(head, linear=part, size=None)


def _cut(bias: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if bias is None else bias[start:stop]


class _Rows(nn.Module):
    """Some outputs of a linear layer; the weight is looked up there, for it may be moved."""

    def __init__(self, whole: nn.Linear, start: int, stop: int) -> None:
        super().__init__()
        self._whole = [whole]  # not a part of this module
        self._rows = slice(start, stop)

    def forward(self, x: Tensor) -> Tensor:
        whole = self._whole[0]
        bias = _cut(getattr(whole, "bias", None), self._rows.start, self._rows.stop)
        return nn.functional.linear(x, whole.weight[self._rows], bias)
