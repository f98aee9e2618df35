"""Reasoning step by step: the draft proposes a step, a policy judges it, the target rewrites it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from copy import copy
from dataclasses import replace
from math import exp
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.block import Block, Reading, Statistics
from stet.draft_length import LONGEST
from stet.engine.operations import Draft, Join, Operation, Program, Score
from stet.errors import StetError
from stet.needs import Need
from stet.policies.base import TokenPolicy
from stet.policies.stepping import (
    Candidate,
    Judgement,
    Step,
    StepPolicy,
    doubted,
    speculates,
    watched,
)
from stet.programs.autoregressive import autoregressive
from stet.programs.speculative import speculative
from stet.sequence import Ruling, Sequence
from stet.steps import Ends, LoopGuard, StepReader, ends_of
from stet.trace import CandidateRecord, StepRecord


def stepwise(sequence: Sequence, policy: StepPolicy, inner: TokenPolicy) -> Program:
    """The draft writes candidates of a step, the policy judges, the target writes what fails.

    Args:
        sequence: what is written to; needs a decoder, since steps end in text.
        policy: judges the steps.
        inner: the lossless token policy under which the target writes with the draft's help.
    """
    ends, guard = ends_of(policy.delimiter), LoopGuard()
    while not sequence.finished:
        text = yield from _step(sequence, policy, inner, ends)
        if guard.stuck(text):
            sequence.close("loop")


def _step(
    sequence: Sequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends
) -> Generator[Operation, Any, str]:
    """One step; returns its text."""
    position, before = len(sequence.answer), replace(sequence.counters)
    text = None
    with sequence.fork(policy.candidates, policy.sampling(sequence.sampling)) as forks:
        candidates: list[Candidate] = yield Join([_drafted(f, policy, ends) for f in forks])
        reader = _Reader(sequence, candidates, inner)
        step = Step(sequence, len(sequence.steps), candidates, reader.read)
        judgement = yield from policy.judge(step)
        chosen = _pick(judgement.chosen, candidates, policy)
        kept = judgement.stands and not policy.shadow
        record = _record(position, candidates, judgement)
        for candidate in candidates:
            if not (kept and candidate is chosen):
                sequence.charge(candidate.sequence)
        if kept:
            text = chosen.text
            _explain(chosen.sequence, judgement.reason)
            sequence.adopt(chosen.sequence, scored=reader.has_read(chosen))
        elif policy.target_candidates == 1 and speculates(policy):
            sequence.take_cache(chosen.sequence, "draft")
    mends = not kept and policy.target_candidates == 1 and speculates(policy)
    ruling = reader.take(chosen if mends else None)
    if mends:
        candidate = yield from _mended(sequence, policy, inner, ends, chosen.tokens, ruling)
        record.target_candidates = [candidate.text]
        record.target_tokens = len(candidate.tokens)
        text = candidate.text
    elif not kept:
        text = yield from _chosen(sequence, policy, inner, ends, record)
    assert text is not None
    record.tokens = len(sequence.answer) - position
    record.draft_seconds = sequence.counters.draft_seconds - before.draft_seconds
    record.target_seconds = sequence.counters.target_seconds - before.target_seconds
    sequence.steps.append(record)
    sequence.counters.steps += 1
    sequence.counters.kept_steps += kept
    return text


class _Reader:
    """Lets the target read candidates, and keeps what it ruled on the last one on the way."""

    def __init__(self, sequence: Sequence, candidates: list[Candidate], inner: TokenPolicy) -> None:
        self._sequence = sequence
        self._candidates = candidates
        self._inner = inner
        self._last: Candidate | None = None
        self._ruling: Ruling | None = None

    def read(self, place: int) -> Generator[Operation, Any, Reading]:
        """One target pass over a candidate."""
        self.take(None)
        candidate = self._candidates[place]
        block = Block(len(candidate.target_tokens), known=candidate.target_tokens)
        ruling: Ruling = yield Score(self._sequence, block, self._inner, reading=True)
        assert ruling.reading is not None
        self._last, self._ruling = candidate, ruling
        return ruling.reading

    def has_read(self, candidate: Candidate) -> bool:
        """Whether the target's cache holds a candidate."""
        return candidate is self._last

    def take(self, candidate: Candidate | None) -> Ruling | None:
        """The ruling on a candidate that the target has read, to be committed.

        A ruling that is not taken is counted for its pass alone.
        """
        ruling, self._ruling = self._ruling, None
        if ruling is None or candidate is self._last:
            return ruling
        self._sequence.charge_pass(ruling.target_seconds)
        return None


def _drafted(
    sequence: Sequence, policy: StepPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The draft writes a step on a fork."""
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)
    blocks: list[Block] = []
    logprobs: list[float] = []
    watch, doubt = watched(policy), doubted(policy)

    def complete(written: list[int]) -> bool:
        return reader.read(sequence.answer + written) is not None

    def hopeless(drafted: list[float]) -> bool:
        """Whether this is for the target to write, and long enough as its first block."""
        found = logprobs + drafted
        if doubt is None or not doubt(found):
            return False
        return len(found) >= sequence.block_size() or exp(sum(found)) < sequence.floor()

    while not (sequence.finished or reader.length is not None or hopeless([])):
        room = min(sequence.limits.chunk, sequence.remaining, policy.step_tokens - reader.count)
        block = yield Draft(
            sequence,
            room,
            until=complete,
            doubt=None if doubt is None else hopeless,
            floor=0.0,
            needs=policy.needs,
            watch=watch,
        )
        sequence.commit(block)
        blocks.append(block)
        if doubt is not None and block.statistics is not None:
            logprobs += block.statistics.logprobs
        reader.read(sequence.answer)
    if reader.length is not None:  # where nobody looked on the way, more was written
        sequence.truncate(reader.length)
    return _candidate(sequence, blocks, policy)


def _candidate(sequence: Sequence, blocks: list[Block], policy: StepPolicy) -> Candidate:
    """What was written, with what the policy asked for; other requests' wishes leave no trace."""
    candidate = Candidate(sequence, sequence.text())
    count = len(sequence.answer)
    if Need.DRAFT_LOGPROBS in policy.needs:
        found = [s for block in blocks if (s := block.statistics) is not None]
        candidate.statistics = Statistics.joined(found, count)
    if Need.DRAFT_HIDDEN in policy.needs:
        hidden = [h for block in blocks if (h := block.hidden) is not None]
        candidate.hidden = torch.cat(hidden)[:count].float()
    watch = watched(policy)
    if watch is not None:
        attention = [a for block in blocks if (a := block.attention) is not None]
        candidate.attention = {
            floor: _joined([a[floor][-watch.layers :] for a in attention], sequence)
            for floor in watch.floors
        }
    return candidate


def _joined(parts: list[Tensor], sequence: Sequence) -> Tensor:
    """[layers, T, S]: a candidate's attention, see `Candidate`.

    Args:
        parts: [layers, K, any] of each stretch of drafting; later ones saw more positions, and
            longer neighbours of their batches still more.
        sequence: the candidate's.
    """
    count, width = len(sequence.answer), len(sequence.tokens) - 1
    if len(parts) == 1 and parts[0].shape[2] >= width:
        return parts[0][:, :count, :width]
    padded = [pad(p[..., :width], (0, max(width - p.shape[2], 0))) for p in parts]
    return torch.cat(padded, 1)[:, :count]


def _mended(
    sequence: Sequence,
    policy: StepPolicy,
    inner: TokenPolicy,
    ends: Ends,
    proposal: list[int],
    ruling: Ruling | None,
) -> Generator[Operation, Any, Candidate]:
    """The target writes the step, and the candidate that was refused is its first block.

    Args:
        sequence: what stands; its draft's cache has read the candidate.
        policy: whose limits count.
        inner: rules on blocks.
        ends: where the step ends.
        proposal: the candidate.
        ruling: on the whole candidate, where the target's cache has read it already.
    """
    with sequence.fork(1) as (fork,):
        sequence.lend_cache(fork, "draft")
        if ruling is None:
            first = proposal[:LONGEST]
            ruling = yield Score(fork, Block(len(first), known=first), inner)
        else:
            sequence.lend_cache(fork, "target")
        fork.commit(ruling)
        candidate = yield from _written(fork, policy, inner, ends)
        sequence.adopt(fork)
    return candidate


def _chosen(
    sequence: Sequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends, record: StepRecord
) -> Generator[Operation, Any, str]:
    """The target writes candidates of its own, and of several the policy picks one."""
    count = policy.target_candidates
    sampling = policy.sampling(sequence.sampling) if count > 1 else None
    with sequence.fork(count, sampling) as forks:
        candidates: list[Candidate] = yield Join([_written(f, policy, inner, ends) for f in forks])
        place = policy.select(candidates) if count > 1 else 0
        chosen = _pick(place, candidates, policy)
        record.target_candidates = [c.text for c in candidates]
        for candidate in candidates:
            record.target_tokens += len(candidate.tokens)
            if candidate is not chosen:
                sequence.charge(candidate.sequence)
        sequence.adopt(chosen.sequence)
    return chosen.text


def _written(
    sequence: Sequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The target writes a step on a fork, in blocks that the draft proposes where it may."""
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)

    def complete(written: Sequence) -> bool:
        return reader.read(written.answer) is not None

    def completed_by_draft() -> Callable[[list[int]], bool]:
        ahead = copy(reader)
        return lambda drafted: ahead.read(sequence.answer + drafted) is not None

    if speculates(policy):
        yield from speculative(sequence, inner, complete, completed_by_draft)
    else:
        yield from autoregressive(sequence, inner, complete)
    if reader.read(sequence.answer) is not None:
        assert reader.length is not None
        sequence.truncate(reader.length)
    return Candidate(sequence, sequence.text())


def _pick(place: int, candidates: list[Candidate], policy: StepPolicy) -> Candidate:
    if not 0 <= place < len(candidates):
        raise StetError(
            f"Policy {policy.name!r} chose candidate {place} of {len(candidates)}; the first is 0."
        )
    return candidates[place]


def _explain(sequence: Sequence, reason: str) -> None:
    sequence.reasons = [reason] * len(sequence.reasons)


def _record(position: int, candidates: list[Candidate], judgement: Judgement) -> StepRecord:
    details = list(judgement.details) or [{} for _ in candidates]
    return StepRecord(
        position=position,
        tokens=0,
        decision="kept" if judgement.stands else "rewritten",
        reason=judgement.reason,
        candidates=[
            CandidateRecord(c.text, list(c.tokens), signals)
            for c, signals in zip(candidates, details, strict=True)
        ],
        chosen=judgement.chosen,
        signals=judgement.signals,
        normalised=judgement.normalised,
        score=judgement.score,
        threshold=judgement.threshold,
        draft_tokens=sum(len(c.tokens) for c in candidates),
    )
