"""The outcome of a round: its numbers on their way to the host, and what became of each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor

from stet.core.acceptance import Acceptance
from stet.core.block import Block, Reading
from stet.core.errors import StetError
from stet.core.operations import Score
from stet.core.policy import TokenPolicy
from stet.core.trace import MismatchRecord

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
    RANKS = "ranks"
    """K ranks of the drafted tokens among the target's: 1 and how many are more probable."""
    BEST_IDS = "best_ids"
    """K * n most probable tokens of the target at the places of the drafted ones."""
    BEST_LOGPROBS = "best_logprobs"
    """K * n raw log-probabilities of these most probable tokens, in nats."""
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


class NonFiniteError(StetError):
    """A model produced a value that is not a number for this request."""


Outcome = Acceptance | Reading | list[float] | Exception
"""The outcome of one scored block; an exception fails that request alone."""


def outcome_of(item: Score, cells: Cells, seconds: float) -> Outcome:
    """Make the outcome of a scored block.

    Args:
        item: the operation.
        cells: its row of the packet.
        seconds: its share of the time of the pass.
    """
    if not cells[Column.FINITE][0]:
        sampling = item.sequence.sampling
        edited = sampling.repetition_penalty != 1 or sampling.logit_bias
        advice = ", or change its logit_bias or repetition_penalty" if edited else ""
        return NonFiniteError(
            "The target's logits are not finite for this request; load the pair in float32 "
            f"or bfloat16, or check its weights{advice}."
        )
    if item.policy is None:
        item.sequence.charge_pass(seconds)
        if item.top is not None:
            return _text(cells, item.block.length, item.top)
        return list(cells[Column.CHOICES]) if item.choices else _reading(cells, item.block)
    return _acceptance(item, item.policy, cells, seconds)


def _reading(cells: Cells, block: Block) -> Reading:
    length = block.length
    return Reading(list(cells[Column.LOGPROBS][:length]), list(cells[Column.MARGINS][:length]))


def _text(cells: Cells, length: int, top: int) -> Reading:
    """The reading of a piece of a text; the packet may have more of the most probable tokens."""
    ids, values = cells[Column.BEST_IDS], cells[Column.BEST_LOGPROBS]
    most = len(ids) // len(cells[Column.DRAFTED])
    return Reading(
        list(cells[Column.LOGPROBS][:length]),
        list(cells[Column.MARGINS][:length]),
        [int(rank) for rank in cells[Column.RANKS][:length]],
        [_best(ids, values, place * most, min(top, most)) for place in range(length)],
    )


def _acceptance(
    item: Score, policy: TokenPolicy, cells: Cells, seconds: float
) -> Acceptance | StetError:
    block, top = item.block, item.sequence.limits.top_logprobs
    accepted, following = int(cells[Column.ACCEPTED][0]), int(cells[Column.NEXT][0])
    if not 0 <= accepted <= block.length:
        return StetError(
            f"Policy {policy.name!r} accepted {accepted} tokens of a block of {block.length}."
        )
    if not item.after and following >= 0 and accepted == block.length > 0:
        return StetError(
            f"Policy {policy.name!r} chose a token after a whole block, where it says that it "
            "defers the bonus token."
        )
    if following < 0 and accepted == 0:
        return StetError(f"Policy {policy.name!r} deferred a token but accepted none.")
    return Acceptance(
        drafted=[int(t) for t in cells[Column.DRAFTED][: block.length]],
        accepted=accepted,
        next_token=following if following >= 0 else None,
        reasons=_reasons(policy, cells.get(Column.REASONS), accepted, block.length),
        p_target=_accepted_and_next(cells.get(Column.P_TARGET), accepted),
        p_draft=_p_draft(cells.get(Column.P_DRAFT), accepted, block),
        top_logprobs=_top(cells, accepted, top) if top else None,
        target_seconds=seconds,
        draft_seconds=block.seconds,
        draft_passes=block.length if block.batch is not None else 0,
        reading=_reading(cells, block) if item.reading else None,
        mismatches=_mismatches(cells, accepted, block.length) if Column.MISMATCH in cells else [],
    )


def _mismatches(cells: Cells, accepted: int, length: int) -> list[MismatchRecord]:
    """The mismatches that were decided about, up to the first rejected token."""
    features = cells.get(Column.MISMATCH_FEATURES, ())
    size = len(features) // max(len(cells[Column.DRAFTED]), 1)
    return [
        MismatchRecord(
            at=at,
            draft=int(cells[Column.DRAFTED][at]),
            target=int(cells[Column.MISMATCH_TARGET][at]),
            score=cells[Column.MISMATCH_SCORE][at],
            accepted=at < accepted,
            features=list(features[at * size : (at + 1) * size]),
        )
        for at in range(min(accepted + 1, length))
        if cells[Column.MISMATCH][at]
    ]


def _reasons(
    policy: TokenPolicy, codes: Sequence[float] | None, accepted: int, length: int
) -> list[str]:
    words = policy.reasons
    if codes is not None:
        return [words[int(code)] for code in codes[: accepted + 1]]
    return [words[0]] * accepted + [words[2 if accepted == length else 1]]


def _p_draft(
    values: Sequence[float] | None, accepted: int, block: Block
) -> list[float | None] | None:
    # A block without distributions may share its packet with others.
    if values is None or block.batch is None or block.batch.logits is None:
        return None
    # After a whole block the draft was not asked about the next token.
    after = values[-1] if accepted < block.length else None
    return [*values[:accepted], after]


def _accepted_and_next(values: Sequence[float] | None, accepted: int) -> list[float] | None:
    """The values of the accepted tokens and of the token that follows them, which is the last."""
    return None if values is None else [*values[:accepted], values[-1]]


def _top(cells: Cells, accepted: int, count: int) -> list[dict[int, float]]:
    """The `count` most probable tokens at each position; the packet may have more of them."""
    ids, values = cells[Column.TOP_IDS], cells[Column.TOP_LOGPROBS]
    most = len(ids) // (len(cells[Column.DRAFTED]) + 1)
    return [_best(ids, values, start, count) for start in range(0, (accepted + 1) * most, most)]


def _best(
    ids: Sequence[float], values: Sequence[float], start: int, count: int
) -> dict[int, float]:
    """So many tokens of a flat table from `start` on, with their log-probabilities."""
    return {int(ids[i]): values[i] for i in range(start, start + count)}
