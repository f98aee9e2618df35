"""Packets: the numbers of a round that go to the host, in one transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor

Cells = Mapping["Column", Sequence[float]]
"""One row of a packet on the host: the numbers of each column that it has."""


class Column(StrEnum):
    """The columns a packet may have, with the numbers that a row has of each.

    K is the number of drafted tokens that the packet's blocks are padded to, n a request's
    `logprobs`, F the features of an arbiter.
    """

    DRAFTED = "drafted"
    """K tokens of the block."""
    FINITE = "finite"
    """1 number: 1 where all logits of the target are finite."""
    ACCEPTED = "accepted"
    """1 number: how many drafted tokens were accepted."""
    NEXT = "next"
    """1 token that follows them; negative where it was deferred."""
    REASONS = "reasons"
    """K + 1 indices into the policy's reasons."""
    LOGPROBS = "logprobs"
    """K raw log-probabilities of the drafted tokens under the target, in nats."""
    MARGINS = "margins"
    """K log-probabilities of the drafted tokens, each less that of the best other token."""
    CHOICES = "choices"
    """Raw log-probabilities of the tokens in `Score.choices`, as the one right after the block."""
    MISMATCH = "mismatch"
    """K numbers: 1 where draft and target would put different tokens."""
    MISMATCH_TARGET = "mismatch_target"
    """K tokens that the target would put."""
    MISMATCH_SCORE = "mismatch_score"
    """K probabilities that the draft's token is the better one, as the policy computes them."""
    MISMATCH_FEATURES = "mismatch_features"
    """K * F numbers that the scores were computed from."""
    P_TARGET = "p_target"
    """K raw probabilities of the drafted tokens under the target, and that of the next one."""
    P_DRAFT = "p_draft"
    """K + 1 raw probabilities of these tokens under the draft."""
    TOP_IDS = "top_ids"
    """(K + 1) * n most probable tokens of the target."""
    TOP_LOGPROBS = "top_logprobs"
    """(K + 1) * n raw log-probabilities of these most probable tokens, in nats."""


class Packet:
    """Columns of some rows as one tensor on the device.

    Args:
        columns: the columns by name, each [B, any].

    Attributes:
        tensor: [B, all columns] float64, which holds tokens and float32 numbers without loss.
    """

    def __init__(self, columns: Mapping[Column, Tensor]) -> None:
        self._widths = {name: tensor.shape[1] for name, tensor in columns.items()}
        self.tensor = torch.cat([tensor.double() for tensor in columns.values()], 1)

    def cells(self, row: Sequence[float]) -> Cells:
        """Divide one row of the table into its columns."""
        found: dict[Column, Sequence[float]] = {}
        start = 0
        for name, width in self._widths.items():
            found[name] = row[start : start + width]
            start += width
        return found


def fetch(packets: Sequence[Packet]) -> list[list[list[float]]]:
    """Fetch the tables of all packets in one transfer, which is the round's only wait."""
    if len(packets) == 1:
        return [packets[0].tensor.tolist()]
    if not packets:
        return []
    flat: list[float] = torch.cat([packet.tensor.flatten() for packet in packets]).tolist()
    tables: list[list[list[float]]] = []
    start = 0
    for packet in packets:
        rows, columns = packet.tensor.shape
        ends = range(start + columns, start + rows * columns + 1, columns)
        tables.append([flat[end - columns : end] for end in ends])
        start += rows * columns
    return tables
