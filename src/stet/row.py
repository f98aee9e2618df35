"""A sequence's place in a model's cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Row:
    """A place in a runner's cache, held by one sequence.

    Attributes:
        index: row of the cache tensors. It may change when another row is released, so never copy
            it; -1 once released.
        valid: number of cached tokens that agree with the sequence's token list. Lowering it
            rewinds the row.
    """

    index: int
    valid: int = 0
