"""The second half of a round: all pending blocks in one target pass, then the policies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stet.core.block import DraftBatch, whole
from stet.core.blocks import Blocks
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Score
from stet.core.policy import TokenPolicy
from stet.core.sampling import Sampler
from stet.core.tensors import at, upload
from stet.core.verification import Verification
from stet.core.wide import best, log_total, logprobs_of, ranks_of
from stet.engine.failures import isolate
from stet.engine.gathering import gather
from stet.engine.outcome import Column, Outcome, Packet, fetch, outcome_of
from stet.engine.prefill import CHUNK
from stet.engine.runner import Forward, Runner
from stet.engine.uniforms import uniforms


@dataclass(frozen=True, slots=True)
class _Pass:
    """One target pass over some blocks, or some rows of such a pass.

    Attributes:
        scores: the B operations.
        drafted: their blocks, padded to K.
        forward: logits [B, K + 1, V].
    """

    scores: Sequence[Score]
    drafted: DraftBatch
    forward: Forward

    def rows(self, chosen: list[int]) -> _Pass:
        """Restrict the pass to some of its rows."""
        if len(chosen) == len(self.scores):
            return self
        index = upload(chosen, self.forward.logits.device)
        hidden = self.forward.hidden
        return _Pass(
            [self.scores[i] for i in chosen],
            self.drafted.rows(index),
            Forward(self.forward.logits[index], None if hidden is None else hidden[index]),
        )


def score(runner: Runner, scores: Sequence[Score], spare: float | None = None) -> list[Outcome]:
    """Score blocks of any policies together.

    Args:
        runner: the target; all of each sequence but its last token is in the cache.
        scores: the pending operations.
        spare: what a pass costs beside its positions, in positions: shorter blocks have passes of
            their own where that costs less than to pad them. None: they are padded.

    Returns:
        One outcome for each, in order.
    """
    began = time.perf_counter()
    outcomes: list[Outcome] = [_UNDECIDED] * len(scores)
    decided: list[tuple[int, Packet, int]] = []
    for places in _passes(scores, most_positions(runner.vocab_size, runner.device), spare):
        found = _decide(_run(runner, [scores[i] for i in places]))
        for place, result in zip(places, found, strict=True):
            if isinstance(result, Exception):
                outcomes[place] = result
            else:
                decided.append((place, *result))
    packets = list(dict.fromkeys(packet for _, packet, _ in decided))
    tables = dict(zip(packets, fetch(packets), strict=True))
    share = (time.perf_counter() - began) / len(scores)
    for place, packet, row in decided:
        outcomes[place] = outcome_of(scores[place], packet.cells(tables[packet][row]), share)
    return outcomes


def positions(item: Score) -> int:
    """Tokens that the target reads: the one before the block, and those of the block."""
    length = item.block.length
    return length + (item.after or not length)


_UNDECIDED = StetError("No decision was made.")


def piece_of(runner: Runner) -> int:
    """Tokens of a text that a pass of `runner` reads at most, so that others wait for no more.

    Their logits are held at a time, and of a packed model they are the same wherever pieces end.
    """
    most = min(CHUNK, runner.exact_width or CHUNK)
    return min(most, most_positions(runner.vocab_size, runner.device))


def most_positions(vocab_size: int, device: torch.device) -> int:
    """The most positions whose logits are held at a time, unless a single block has more."""
    return max(_LOGITS.get(device.type, _LOGITS["cuda"]) // vocab_size, 1)


_LOGITS = {"cpu": 2**26, "cuda": 2**28}
"""The most logits of a pass, by device. Over a large vocabulary the logits of whole steps, read for
many requests, would take gigabytes; blocks of tokens stay below this."""


def _passes(scores: Sequence[Score], most: int, spare: float | None) -> Iterator[list[int]]:
    """Divide the operations into passes, by their places.

    Args:
        scores: the operations.
        most: the most positions of a pass.
        spare: see `score`.
    """
    widths = [positions(item) for item in scores]
    limits = [max(widths)] if spare is None else _limits(Counter(widths), spare)
    for low, high in pairwise([0, *limits]):
        some: list[int] = []
        longest = 0
        for place, width in enumerate(widths):
            if not low < width <= high:
                continue
            longest = max(longest, width)
            if some and (len(some) + 1) * longest > most:
                yield some
                some, longest = [], width
            some.append(place)
        yield some


def _limits(widths: Counter[int], spare: float) -> list[int]:
    """The widths of passes, ascending, that together cost least: each block is in the next wider.

    Args:
        widths: how many blocks have each width.
        spare: see `score`.
    """
    known = sorted(widths)
    least: list[tuple[float, list[int]]] = [(0.0, [])]
    for last, width in enumerate(known):
        found: list[tuple[float, list[int]]] = []
        count = 0
        for first in range(last, -1, -1):
            count += widths[known[first]]
            cost, limits = least[first]
            found.append((cost + spare + count * width, [*limits, width]))
        least.append(min(found))
    return least[-1][1]


def _decide(whole: _Pass) -> list[tuple[Packet, int] | Exception]:
    """Decide about each row: the packet with its decision and its place there, or an error."""
    found: list[tuple[Packet, int] | Exception] = [_UNDECIDED] * len(whole.scores)
    for members in _by_policy(whole.scores):
        # A policy that raises is run row by row, so that only the row at fault fails.
        decided = isolate(members, lambda part: _decide_group(whole, part))
        for place, result in zip(members, decided, strict=True):
            found[place] = result
    return found


def _run(runner: Runner, scores: Sequence[Score]) -> _Pass:
    sequences = [s.sequence for s in scores]
    blocks = [s.block for s in scores]
    drafted = gather(blocks, runner.vocab_size, runner.device)
    last = upload([[s.tokens[-1]] for s in sequences], runner.device)
    tokens = torch.cat([last, drafted.tokens], 1) if drafted.tokens.shape[1] else last
    counts = [positions(item) for item in scores]
    needs = frozenset[Need]().union(*(s.policy.needs for s in scores if s.policy is not None))
    forward = runner.forward(
        [s.rows["target"] for s in sequences],
        tokens[:, : max(counts)],
        [len(s.tokens) - 1 for s in sequences],
        counts,
        hidden=Need.TARGET_HIDDEN in needs,
    )
    # Of pieces of texts only the positions of their own tokens are looked at.
    reads = all(item.top is not None for item in scores)
    return _Pass(scores, drafted, forward if reads else _widened(forward, tokens.shape[1]))


def _widened(forward: Forward, width: int) -> Forward:
    """Repeat the last position up to a width, for policies that do not look at what is there.

    Where no block's last token was read, tensors have the position after it all the same.
    """
    missing = width - forward.logits.shape[1]
    if not missing:
        return forward
    logits, hidden = (
        None if x is None else torch.cat([x, x[:, -1:].expand(-1, missing, -1)], 1)
        for x in (forward.logits, forward.hidden)
    )
    assert logits is not None
    return Forward(logits, hidden)


def _by_policy(scores: Sequence[Score]) -> list[list[int]]:
    """Group the operations by policy, since one call of a policy can verify all of a group."""
    groups: dict[object, list[int]] = {}
    for place, item in enumerate(scores):
        # Rows without a policy are grouped by the number of their choices; texts are apart.
        key: object = item.policy
        if item.policy is None:
            key = "text" if item.top is not None else len(item.choices)
        try:
            hash(key)
        except TypeError:  # a policy that holds tensors, say
            key = id(key)
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _decide_group(whole: _Pass, members: list[int]) -> list[tuple[Packet, int]]:
    """Decide about some rows together: the packet with each decision, and its place there."""
    group = whole.rows(members)
    policy = group.scores[0].policy
    columns = {Column.DRAFTED: group.drafted.tokens}
    if policy is None or any(item.reading for item in group.scores):
        tops = [item.top for item in group.scores if item.top is not None]
        logits = group.forward.logits[:, : group.drafted.tokens.shape[1]]
        columns |= _reading(logits, group.drafted.tokens, max(tops, default=None))
    columns |= _measure(group) if policy is None else _verify(group, policy)
    packet = Packet(columns)
    return [(packet, row) for row in range(len(members))]


Columns = dict[Column, Tensor]


def _reading(logits: Tensor, tokens: Tensor, top: int | None) -> Columns:
    """The target's statistics of tokens [B, K], from the logits at their positions [B, K, V].

    Args:
        logits: the logits.
        tokens: the tokens.
        top: of pieces of texts, how many of the most probable tokens there are to be.
    """
    own = logits.gather(2, tokens[..., None])[..., 0]
    most = min(top or 0, logits.shape[2])
    values, ids = best(logits, max(most, 2))
    first, second = values[..., 0], values[..., 1]
    total = log_total(logits)
    columns = {
        Column.LOGPROBS: own - total,
        Column.MARGINS: own - torch.where(own == first, second, first),
    }
    if top is not None:
        columns[Column.RANKS] = ranks_of(logits, tokens)
        columns[Column.BEST_IDS] = ids[..., :most].flatten(1)
        columns[Column.BEST_LOGPROBS] = (values[..., :most] - total[..., None]).flatten(1)
    return columns


def _measure(group: _Pass) -> Columns:
    """Measure without a policy: whether logits are finite, and log-probabilities of choices."""
    logits = group.forward.logits
    columns = {Column.FINITE: logits.amax(-1).isfinite().all(1, keepdim=True)}
    if group.scores[0].choices:
        ends = upload([item.block.length for item in group.scores], logits.device)
        choices = upload([item.choices for item in group.scores], logits.device)
        columns[Column.CHOICES] = logprobs_of(at(logits, ends), choices)
    return columns


def _verify(group: _Pass, policy: TokenPolicy) -> Columns:
    """Verify some blocks with a policy: its decisions, and what is recorded of them."""
    blocks = _blocks(group, policy)
    verification = policy.verify(blocks)
    _check_shapes(blocks, verification)
    columns = {
        Column.FINITE: blocks.finite[:, None],
        Column.ACCEPTED: verification.accepted[:, None],
        Column.NEXT: verification.next_token[:, None],
    }
    if verification.reasons is not None:
        columns[Column.REASONS] = verification.reasons
    if (mismatches := verification.mismatches) is not None:
        columns[Column.MISMATCH] = mismatches.where
        columns[Column.MISMATCH_TARGET] = mismatches.target
        columns[Column.MISMATCH_SCORE] = mismatches.score
        if mismatches.features is not None:
            columns[Column.MISMATCH_FEATURES] = mismatches.features.flatten(1)
    limits = [item.sequence.limits for item in group.scores]
    if any(item.probabilities or item.target_probabilities for item in limits):
        columns |= _probabilities(blocks, verification, group.drafted)
    if top := max(item.top_logprobs for item in limits):
        values, tokens = blocks.target_best(top)
        columns |= {Column.TOP_IDS: tokens.flatten(1), Column.TOP_LOGPROBS: values.flatten(1)}
    return columns


def _check_shapes(blocks: Blocks, verification: Verification) -> None:
    rows = blocks.drafted.shape[0]
    if verification.accepted.shape != (rows,) or verification.next_token.shape != (rows,):
        raise StetError(
            f"A verification of {rows} blocks needs accepted and next_token of shape [{rows}], got "
            f"{list(verification.accepted.shape)} and {list(verification.next_token.shape)}."
        )


def _probabilities(blocks: Blocks, verification: Verification, drafted: DraftBatch) -> Columns:
    """Raw probabilities of the K drafted tokens and of the next one, under each model."""
    width = blocks.drafted.shape[1]
    following = verification.next_token.clamp(min=0)[:, None]

    def of(logits: Tensor, total: Tensor, place: Tensor) -> Tensor:
        own = logits[:, :width].gather(2, blocks.drafted[..., None])[..., 0]
        after = at(logits, place).gather(1, following)
        totals = torch.cat([total[:, :width], at(total, place)[:, None]], 1)
        return (torch.cat([own, after], 1) - totals).exp()

    accepted = verification.accepted
    columns = {Column.P_TARGET: of(blocks.raw_target_logits, blocks.target_total, accepted)}
    if drafted.logits is not None and width:
        logits = whole(drafted.logits)
        columns[Column.P_DRAFT] = of(logits, log_total(logits), accepted.clamp(max=width - 1))
    return columns


def _blocks(group: _Pass, policy: TokenPolicy) -> Blocks:
    sequences = [s.sequence for s in group.scores]
    lengths = [s.block.length for s in group.scores]
    logits, drafted = group.forward.logits, group.drafted
    device = logits.device

    def random(slot: int, count: int) -> Tensor:
        seeds = upload([s.sampling.seed for s in sequences], device)
        rounds = upload([s.round for s in sequences], device)
        return uniforms(seeds, rounds, slot, count)

    def history() -> Tensor:
        return upload(
            [[len(s.answer), sum(len(b.accepted_mismatches) for b in s.blocks)] for s in sequences],
            device,
        )

    return Blocks(
        drafted=drafted.tokens,
        lengths=upload(lengths, device),
        target_logits=logits,
        sampler=Sampler(
            [s.sampling for s in sequences],
            [s.tokens for s in sequences],
            logits.shape[2],
            device,
            [s.counted for s in sequences],
        ),
        uniforms=random,
        full=min(lengths) == drafted.tokens.shape[1],
        draft_probs=drafted.probs,
        draft_logits=drafted.logits,
        target_hidden=group.forward.hidden,
        draft_hidden=drafted.hidden,
        history=history,
        needs=policy.needs,
    )
