"""The second half of a round: all pending blocks in one target pass, then the policies' rulings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.core.acceptance import Acceptance
from stet.core.block import Block, DraftBatch, Reading, whole
from stet.core.blocks import Blocks
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Score
from stet.core.policy import TokenPolicy
from stet.core.sampling import Sampler
from stet.core.tensors import at, upload
from stet.core.trace import MismatchRecord
from stet.core.verification import Verification
from stet.core.wide import best, log_total, logprobs_of
from stet.engine.failures import isolated
from stet.engine.forward import Forward
from stet.engine.gathering import gather
from stet.engine.runner import Runner
from stet.engine.uniforms import uniforms


class NonFiniteError(StetError):
    """A model produced a value that is not a number for this request."""


Outcome = Acceptance | Reading | list[float] | Exception
"""What became of one scored block; an exception is that request's alone."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One target pass over some blocks, or some rows of it.

    Attributes:
        scores: B operations.
        drafted: their blocks, padded to K.
        forward: logits [B, K + 1, V].
    """

    scores: Sequence[Score]
    drafted: DraftBatch
    forward: Forward

    def rows(self, chosen: list[int]) -> _Pass:
        """The same pass, restricted to some of its rows."""
        if len(chosen) == len(self.scores):
            return self
        index = upload(chosen, self.forward.logits.device)
        hidden = self.forward.hidden
        return _Pass(
            [self.scores[i] for i in chosen],
            self.drafted.rows(index),
            Forward(self.forward.logits[index], None if hidden is None else hidden[index]),
        )


def score(runner: Runner, scores: Sequence[Score]) -> list[Outcome]:
    """Score blocks of any policies together.

    Args:
        runner: the target; all of each sequence but its last token is in the cache.
        scores: the pending operations.

    Returns:
        One outcome for each, in order.
    """
    began = time.perf_counter()
    outcomes: list[Outcome] = [_UNRULED] * len(scores)
    ruled: list[tuple[int, _Packet, int]] = []
    for first, some in _passes(runner, scores):
        found = _rule(_run(runner, some))
        for place, result in enumerate(found, first):
            if isinstance(result, Exception):
                outcomes[place] = result
            else:
                ruled.append((place, *result))
    packets = list(dict.fromkeys(packet for _, packet, _ in ruled))
    # The round's only wait for the device.
    tables = dict(zip(packets, _fetch(packets), strict=True))
    share = (time.perf_counter() - began) / len(scores)
    for place, packet, row in ruled:
        outcomes[place] = packet.read(tables[packet][row], scores[place], share)
    return outcomes


_UNRULED = StetError("No ruling was made.")


def most_positions(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits are held at a time, unless a single block has more."""
    return max(_LOGITS.get(device.type, _LOGITS["cuda"]) // vocab_size, 1)


_LOGITS = {"cpu": 2**26, "cuda": 2**28}
"""Logits of a pass. Over a large vocabulary those of whole steps, read for many requests, would
take gigabytes; blocks of tokens stay below it."""


def _passes(runner: Runner, scores: Sequence[Score]) -> Iterator[tuple[int, Sequence[Score]]]:
    """The operations, as many at a time as one pass may hold, each with the place of its first."""
    most = most_positions(runner.vocab_size, runner.device)
    first = width = 0
    for place, item in enumerate(scores):
        width = max(width, item.block.length + 1)
        if place > first and (place + 1 - first) * width > most:
            yield first, scores[first:place]
            first, width = place, item.block.length + 1
    yield first, scores[first:]


def _rule(whole: _Pass) -> list[tuple[_Packet, int] | Exception]:
    """For each row the packet that its ruling is in and its place there, or why there is none."""
    found: list[tuple[_Packet, int] | Exception] = [_UNRULED] * len(whole.scores)
    for members in _by_policy(whole.scores):
        # A policy that raises is tried row by row, so that only the guilty row fails.
        ruled = isolated(members, lambda part: _judge(whole, part))
        for place, result in zip(members, ruled, strict=True):
            found[place] = result
    return found


def _run(runner: Runner, scores: Sequence[Score]) -> _Pass:
    sequences = [s.sequence for s in scores]
    blocks = [s.block for s in scores]
    drafted = gather(blocks, runner.vocab_size, runner.device)
    last = upload([[s.tokens[-1]] for s in sequences], runner.device)
    needs = frozenset[Need]().union(*(s.policy.needs for s in scores if s.policy is not None))
    forward = runner.forward(
        [s.rows["target"] for s in sequences],
        torch.cat([last, drafted.tokens], 1) if drafted.tokens.shape[1] else last,
        [len(s.tokens) - 1 for s in sequences],
        [block.length + 1 for block in blocks],
        hidden=Need.TARGET_HIDDEN in needs,
    )
    return _Pass(scores, drafted, forward)


def _by_policy(scores: Sequence[Score]) -> list[list[int]]:
    """Places of the operations that one call of a policy can rule on."""
    groups: dict[object, list[int]] = {}
    for place, item in enumerate(scores):
        # Rows without a policy are told apart by how many numbers they want.
        key: object = item.policy if item.policy is not None else len(item.choices)
        try:
            hash(key)
        except TypeError:  # a policy that holds tensors, say
            key = id(key)
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _judge(whole: _Pass, members: list[int]) -> list[tuple[_Packet, int]]:
    """Rule on some rows together: the packet that each ruling is in, and its place there."""
    packet = _Packet(whole.rows(members))
    return [(packet, row) for row in range(len(members))]


class _Packet:
    """The rulings on some rows as one tensor, so that they reach the host in one transfer."""

    def __init__(self, group: _Pass) -> None:
        self.policy: TokenPolicy | None = group.scores[0].policy
        self.width = group.drafted.tokens.shape[1]
        self._names: list[tuple[str, int]] = []
        self._columns: list[Tensor] = []
        logits, drafted = group.forward.logits, group.drafted.tokens
        self._add("drafted", drafted)
        if self.policy is None or any(item.reading for item in group.scores):
            self._add_reading(logits[:, :-1], drafted[..., None])
        if self.policy is None:
            self._add("finite", logits.amax(-1).isfinite().all(1, keepdim=True))
            if group.scores[0].choices:
                self._add_choices(group)
        else:
            blocks = _blocks(group, self.policy)
            verification = self.policy.verify(blocks)
            self._add("finite", blocks.finite[:, None])
            self._add_verification(blocks, verification)
            limits = [s.sequence.limits for s in group.scores]
            if any(item.probabilities for item in limits):
                self._add_probabilities(blocks, verification, group.drafted)
            self.top = max(item.top_logprobs for item in limits)
            if self.top:
                values, tokens = blocks.target_best(self.top)
                self._add("top_ids", tokens.flatten(1))
                self._add("top_logprobs", values.flatten(1))
        # Doubles hold tokens and float32 numbers alike without loss.
        self.tensor = torch.cat(self._columns, 1)

    def _add(self, name: str, columns: Tensor) -> None:
        self._names.append((name, columns.shape[1]))
        self._columns.append(columns.double())

    def _add_reading(self, logits: Tensor, tokens: Tensor) -> None:
        """Of K tokens, [B, K, 1], by the logits of their positions, [B, K, V]."""
        own = logits.gather(2, tokens)[..., 0]
        first, second = best(logits, 2)[0].unbind(-1)
        self._add("logprobs", own - log_total(logits))
        self._add("margins", own - torch.where(own == first, second, first))

    def _add_choices(self, group: _Pass) -> None:
        """Raw log-probabilities of given tokens right after each block."""
        device = group.forward.logits.device
        ends = upload([s.block.length for s in group.scores], device)
        choices = upload([s.choices for s in group.scores], device)
        self._add("choices", logprobs_of(at(group.forward.logits, ends), choices))

    def _add_verification(self, blocks: Blocks, verification: Verification) -> None:
        rows = blocks.drafted.shape[0]
        if verification.accepted.shape != (rows,) or verification.next_token.shape != (rows,):
            raise StetError(
                f"A verdict on {rows} blocks needs kept and next_token of shape [{rows}], got "
                f"{list(verification.accepted.shape)} and {list(verification.next_token.shape)}."
            )
        self._add("accepted", verification.accepted[:, None])
        self._add("next", verification.next_token[:, None])
        if verification.reasons is not None:
            self._add("reasons", verification.reasons)
        if verification.mismatches is not None:
            mismatches = verification.mismatches
            self._add("mismatch", mismatches.where)
            self._add("mismatch_target", mismatches.target)
            self._add("mismatch_score", mismatches.score)
            if mismatches.features is not None:
                self._add("mismatch_features", mismatches.features.flatten(1))

    def _add_probabilities(
        self, blocks: Blocks, verification: Verification, drafted: DraftBatch
    ) -> None:
        """Raw probabilities of the drafted tokens (K columns) and of the next one."""
        following = verification.next_token.clamp(min=0)[:, None]

        def add(name: str, logits: Tensor, total: Tensor, place: Tensor) -> None:
            own = logits[:, : self.width].gather(2, blocks.drafted[..., None])[..., 0]
            after = at(logits, place).gather(1, following)
            totals = torch.cat([total[:, : self.width], at(total, place)[:, None]], 1)
            self._add(name, (torch.cat([own, after], 1) - totals).exp())

        add("p_target", blocks.raw_target_logits, blocks.target_total, verification.accepted)
        if drafted.logits is not None and self.width:
            logits = whole(drafted.logits)
            add(
                "p_draft",
                logits,
                log_total(logits),
                verification.accepted.clamp(max=self.width - 1),
            )

    def read(self, row: list[float], item: Score, seconds: float) -> Outcome:
        """The outcome of one row of the table."""
        cells: dict[str, list[float]] = {}
        start = 0
        for name, width in self._names:
            cells[name] = row[start : start + width]
            start += width
        block = item.block
        if not cells["finite"][0]:
            edited = item.sequence.sampling.edits_logits
            advice = ", or change its logit_bias or repetition_penalty" if edited else ""
            return NonFiniteError(
                "The target's logits are not finite for this request; load the pair in float32 "
                f"or bfloat16, or check its weights{advice}."
            )
        reading = None
        if "margins" in cells:
            reading = Reading(cells["logprobs"][: block.length], cells["margins"][: block.length])
        if self.policy is None:
            item.sequence.charge_pass(seconds)
            if item.choices:
                return cells["choices"]
            assert reading is not None
            return reading
        accepted, following = int(cells["accepted"][0]), int(cells["next"][0])
        if not 0 <= accepted <= block.length:
            return StetError(
                f"Policy {self.policy.name!r} kept {accepted} tokens of a block of {block.length}."
            )
        if following < 0 and accepted == 0:
            return StetError(f"Policy {self.policy.name!r} held a token back but kept none.")
        return Acceptance(
            drafted=[int(t) for t in cells["drafted"][: block.length]],
            accepted=accepted,
            next_token=following if following >= 0 else None,
            reasons=self._reasons(cells.get("reasons"), accepted, block.length),
            p_target=_pick(cells.get("p_target"), accepted),
            p_draft=self._p_draft(cells.get("p_draft"), accepted, block),
            top_logprobs=self._top(cells, accepted, item.sequence.limits.top_logprobs),
            target_seconds=seconds,
            draft_seconds=block.seconds,
            draft_passes=block.length if block.batch is not None else 0,
            reading=reading if item.reading else None,
            mismatches=self._mismatches(cells, accepted, block.length)
            if "mismatch" in cells
            else [],
        )

    def _mismatches(
        self, cells: dict[str, list[float]], accepted: int, length: int
    ) -> list[MismatchRecord]:
        """What was decided, up to the first drafted token that does not stand."""
        features = cells.get("mismatch_features", [])
        size = len(features) // max(self.width, 1)
        return [
            MismatchRecord(
                at=at,
                draft=int(cells["drafted"][at]),
                target=int(cells["mismatch_target"][at]),
                score=cells["mismatch_score"][at],
                accepted=at < accepted,
                features=features[at * size : (at + 1) * size],
            )
            for at in range(min(accepted + 1, length))
            if cells["mismatch"][at]
        ]

    def _reasons(self, codes: list[float] | None, accepted: int, length: int) -> list[str]:
        assert self.policy is not None
        words = self.policy.reasons
        if codes is not None:
            return [words[int(code)] for code in codes[: accepted + 1]]
        return [words[0]] * accepted + [words[2 if accepted == length else 1]]

    def _p_draft(
        self, values: list[float] | None, accepted: int, block: Block
    ) -> list[float | None] | None:
        # A block that no distribution is known of may share its packet with others.
        if values is None or block.batch is None or block.batch.logits is None:
            return None
        # After a whole block the draft was not asked about the next token.
        after = values[-1] if accepted < block.length else None
        return [*values[:accepted], after]

    def _top(
        self, cells: dict[str, list[float]], accepted: int, count: int
    ) -> list[dict[int, float]] | None:
        if not count:
            return None
        ids, values = cells["top_ids"], cells["top_logprobs"]
        starts = range(0, (accepted + 1) * self.top, self.top)
        return [{int(ids[i]): values[i] for i in range(start, start + count)} for start in starts]


def _pick(values: list[float] | None, accepted: int) -> list[float] | None:
    """Of K drafted tokens and one that follows: the kept ones and the last."""
    return None if values is None else [*values[:accepted], values[-1]]


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
            [s.sampling for s in sequences], [s.tokens for s in sequences], logits.shape[2], device
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


def _fetch(packets: Sequence[_Packet]) -> list[list[list[float]]]:
    """All packets' tables on the host, in one transfer."""
    if len(packets) == 1:
        return [packets[0].tensor.tolist()]
    if not packets:
        return []
    flat: list[float] = torch.cat([p.tensor.flatten() for p in packets]).tolist()
    tables: list[list[list[float]]] = []
    start = 0
    for packet in packets:
        rows, columns = packet.tensor.shape
        ends = range(start + columns, start + rows * columns + 1, columns)
        tables.append([flat[end - columns : end] for end in ends])
        start += rows * columns
    return tables
