"""Reasoning step by step: the draft proposes a step, a policy judges it, the target rewrites it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.block import Block, Statistics
from stet.engine.operations import Draft, Join, Operation, Program
from stet.errors import StetError
from stet.needs import Need
from stet.policies.base import TokenPolicy
from stet.policies.stepping import Candidate, Judgement, Step, StepPolicy, watched
from stet.programs.speculative import speculative
from stet.sequence import Sequence
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
    sampling = policy.sampling(sequence.sampling)
    with sequence.fork(policy.candidates, sampling) as forks:
        candidates: list[Candidate] = yield Join([_drafted(f, policy, ends) for f in forks])
        step = Step(sequence, len(sequence.steps), candidates)
        judgement = yield from policy.judge(step)
        _check(judgement.chosen, candidates, policy)
        kept = judgement.stands and not policy.shadow
        record = _record(position, candidates, judgement)
        for index, candidate in enumerate(candidates):
            if kept and index == judgement.chosen:
                _explain(candidate.sequence, judgement.reason)
                sequence.adopt(candidate.sequence, scored=judgement.scored)
            else:
                sequence.charge(candidate.sequence)
    if kept:
        text = candidates[judgement.chosen].text
    else:
        text = yield from _rewritten(sequence, policy, inner, ends, record)
    record.tokens = len(sequence.answer) - position
    record.draft_seconds = sequence.counters.draft_seconds - before.draft_seconds
    record.target_seconds = sequence.counters.target_seconds - before.target_seconds
    sequence.steps.append(record)
    sequence.counters.steps += 1
    sequence.counters.kept_steps += kept
    return text


def _drafted(
    sequence: Sequence, policy: StepPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The draft writes a step on a fork."""
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)
    blocks: list[Block] = []
    watch = watched(policy)

    def complete(written: list[int]) -> bool:
        return reader.read(sequence.answer + written) is not None

    while not (sequence.finished or reader.length is not None):
        room = min(sequence.limits.chunk, sequence.remaining, policy.step_tokens - reader.count)
        block = yield Draft(sequence, room, until=complete, needs=policy.needs, watch=watch)
        sequence.commit(block)
        blocks.append(block)
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
        candidate.statistics = Statistics(
            [x for s in found for x in s.logprobs][:count],
            [x for s in found for x in s.entropies][:count],
            [x for s in found for x in s.margins][:count],
        )
    if Need.DRAFT_HIDDEN in policy.needs:
        hidden = [h for block in blocks if (h := block.hidden) is not None]
        candidate.hidden = torch.cat(hidden)[:count].float().mean(0)
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
    width = len(sequence.tokens) - 1
    padded = [pad(p[..., :width], (0, max(width - p.shape[2], 0))) for p in parts]
    return torch.cat(padded, 1)[:, : len(sequence.answer)]


def _rewritten(
    sequence: Sequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends, record: StepRecord
) -> Generator[Operation, Any, str]:
    """The target writes the step; of several candidates the policy picks one."""
    count = policy.target_candidates
    sampling = policy.sampling(sequence.sampling) if count > 1 else None
    with sequence.fork(count, sampling) as forks:
        candidates: list[Candidate] = yield Join([_written(f, policy, inner, ends) for f in forks])
        chosen = policy.select(candidates) if count > 1 else 0
        _check(chosen, candidates, policy)
        record.target_candidates = [c.text for c in candidates]
        for index, candidate in enumerate(candidates):
            record.target_tokens += len(candidate.tokens)
            if index == chosen:
                sequence.adopt(candidate.sequence)
            else:
                sequence.charge(candidate.sequence)
    return candidates[chosen].text


def _written(
    sequence: Sequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The target writes a step on a fork, in blocks that the draft proposes."""
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)

    def complete(written: Sequence) -> bool:
        return reader.read(written.answer) is not None

    yield from speculative(sequence, inner, complete)
    if reader.read(sequence.answer) is not None:
        assert reader.length is not None
        sequence.truncate(reader.length)
    return Candidate(sequence, sequence.text())


def _check(chosen: int, candidates: list[Candidate], policy: StepPolicy) -> None:
    if not 0 <= chosen < len(candidates):
        raise StetError(
            f"Policy {policy.name!r} chose candidate {chosen} of {len(candidates)}; the first is 0."
        )


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
