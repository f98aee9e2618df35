"""Division of a batch into spans: rows of similar length, attended together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stet.engine.attention import Span


def divide(
    width: int, starts: Sequence[int], ends: Sequence[int], positions: Tensor, cost: int
) -> list[Span]:
    """Divide a batch into spans so that few slots are read in vain.

    A span reads as many slots of each of its rows as its longest row has. One long row among many
    short ones is therefore best in a span of its own, although each span has a fixed cost.

    Args:
        width: T, tokens per row, pads included.
        starts: position of each row's first token.
        ends: position after each row's last true token.
        positions: [B, T] positions of all tokens.
        cost: slots that may be read in vain before one more span pays.
    """
    spans: list[Span] = []
    batch = len(starts)
    first, longest = 0, max(ends[0], 1)
    for b in range(1, batch + 1):
        if b < batch:
            end, size = max(ends[b], 1), b - first
            together = (size + 1) * max(longest, end)
            if together <= size * longest + end + cost:
                longest = max(longest, end)
                continue
        aligned = all(starts[i] + width == longest and ends[i] == longest for i in range(first, b))
        part = None if aligned else positions[first:b]
        spans.append(Span(first, b, longest, part))
        if b < batch:
            first, longest = b, max(ends[b], 1)
    return spans
