"""The body of a transformers model, called as Stet's own decoder is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stet.engine.attention import CacheView


@dataclass(frozen=True, slots=True, eq=False)
class ForeignBody:
    """A body whose passes go through transformers' module.

    Attributes:
        module: the model without its head, its attention set to Stet's.
    """

    module: Any

    def reserve(self, length: int) -> None:
        """Do nothing: the module computes what it needs in each pass."""

    def tensors(self) -> Iterator[Tensor]:
        """Nothing: a compiler knows that the parameters of modules stay where they are."""
        return iter(())

    def __call__(self, tokens: Tensor, positions: Tensor, view: CacheView) -> Tensor:
        """Compute the last hidden state; see `stet.core.model.Body`."""
        out = self.module(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=view,
            use_cache=True,
            stet_view=view,
        )
        state: Tensor = out.last_hidden_state
        return state
