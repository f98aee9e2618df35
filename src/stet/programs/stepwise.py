"""Reasoning step by step: the draft proposes a step, a policy judges it, the target rewrites it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from copy import copy
from dataclasses import replace
from typing import Any

from stet.core.acceptance import Acceptance
from stet.core.block import Block
from stet.core.draft_length import LONGEST
from stet.core.operations import Join, Operation, Program, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, Step, StepPolicy, selected
from stet.core.steps import Ends, LoopGuard, StepReader, ends_of
from stet.core.trace import StepRecord
from stet.policies.exact import Exact
from stet.programs.autoregressive import autoregressive
from stet.programs.parts import (
    Reader,
    conclude,
    drafted,
    explain,
    offered,
    pick,
    record_of,
    ruled,
)
from stet.programs.speculative import speculative


def stepwise(sequence: TokenSequence, policy: StepPolicy, inner: TokenPolicy) -> Program:
    """The draft writes candidates of a step, the policy judges, the target writes what fails.

    Args:
        sequence: what is written to; needs a decoder, since steps end in text.
        policy: judges the steps.
        inner: the token policy under which the target writes with the draft's help. On the refused
            candidate, which opens a rewrite, it is the exact rule that rules: nothing was kept of
            how it was drafted.
    """
    ends, guard = ends_of(policy.delimiter), LoopGuard(policy.loop_after)
    while not sequence.finished:
        text, accepted = yield from _step(sequence, policy, inner, ends)
        if guard.stuck(text, drafted=accepted):
            sequence.close("loop")


def _step(
    sequence: TokenSequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends
) -> Generator[Operation, Any, tuple[str, bool]]:
    """One step; returns its text, and whether it is the draft's."""
    position, before = len(sequence.answer), replace(sequence.counters)
    text = None
    sampling = policy.sampling(sequence.sampling)
    with sequence.fork(policy.candidates, sampling, bounded=False) as forks:
        written: list[Candidate] = yield Join([drafted(f, policy, ends) for f in forks])
        candidates = offered(written)
        reader = Reader(sequence, candidates, Exact())
        step = Step(sequence, len(sequence.steps), candidates, reader.read)
        decision = yield from policy.judge(step)
        chosen = pick(decision.chosen, candidates, policy)
        decision, accepted = ruled(decision, chosen, policy)
        record = record_of(position, candidates, decision)
        record.draft_tokens = sum(len(c.tokens) for c in written)
        for candidate in written:
            if not (accepted and candidate is chosen):
                sequence.charge(candidate.sequence)
        if accepted:
            text = chosen.text
            explain(chosen.sequence, decision.reason)
            sequence.adopt(chosen.sequence, scored=reader.has_read(chosen))
        elif policy.target_candidates == 1 and policy.speculate:
            sequence.take_cache(chosen.sequence, "draft")
    mends = not accepted and policy.target_candidates == 1 and policy.speculate
    acceptance = reader.take(chosen if mends else None)
    if mends:
        candidate = yield from _mended(sequence, policy, inner, ends, chosen.tokens, acceptance)
        record.target_candidates = [candidate.text]
        record.target_tokens = len(candidate.tokens)
        text = candidate.text
    elif not accepted:
        text = yield from _chosen(sequence, policy, inner, ends, record)
    assert text is not None
    conclude(sequence, record, before, accepted)
    return text, accepted


def _mended(
    sequence: TokenSequence,
    policy: StepPolicy,
    inner: TokenPolicy,
    ends: Ends,
    proposal: list[int],
    acceptance: Acceptance | None,
) -> Generator[Operation, Any, Candidate]:
    """The target writes the step, and the candidate that was refused is its first block.

    Args:
        sequence: what stands; its draft's cache has read the candidate.
        policy: whose limits count.
        inner: rules on the blocks behind it.
        ends: where the step ends.
        proposal: the candidate.
        acceptance: on the whole candidate, where the target's cache has read it already.
    """
    with sequence.fork(1) as (fork,):
        sequence.lend_cache(fork, "draft")
        if acceptance is None:
            first = proposal[:LONGEST]
            acceptance = yield Score(fork, Block(len(first), known=first), Exact())
        else:
            sequence.lend_cache(fork, "target")
        fork.commit(acceptance)
        candidate = yield from _written(fork, policy, inner, ends)
        sequence.adopt(fork)
    return candidate


def _chosen(
    sequence: TokenSequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends, record: StepRecord
) -> Generator[Operation, Any, str]:
    """The target writes candidates of its own, and of several the policy picks one."""
    count = policy.target_candidates
    sampling = policy.sampling(sequence.sampling) if count > 1 else None
    # What is chosen from is whole; a single one need not be written beyond the answer's end.
    with sequence.fork(count, sampling, bounded=count == 1) as forks:
        candidates: list[Candidate] = yield Join([_written(f, policy, inner, ends) for f in forks])
        place = yield from selected(policy, candidates)
        chosen = pick(place, candidates, policy)
        record.target_candidates = [c.text for c in candidates]
        for candidate in candidates:
            record.target_tokens += len(candidate.tokens)
            if candidate is not chosen:
                sequence.charge(candidate.sequence)
        sequence.adopt(chosen.sequence)
    return chosen.text


def _written(
    sequence: TokenSequence, policy: StepPolicy, inner: TokenPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The target writes a step on a fork, in blocks that the draft proposes where it may."""
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)

    def complete(written: TokenSequence) -> bool:
        return reader.read(written.answer) is not None

    def completed_by_draft() -> Callable[[list[int]], bool]:
        ahead = copy(reader)
        return lambda drafted: ahead.read(sequence.answer + drafted) is not None

    if policy.speculate:
        yield from speculative(sequence, inner, complete, completed_by_draft)
    else:
        yield from autoregressive(sequence, inner, complete)
    if reader.read(sequence.answer) is not None:
        assert reader.length is not None
        sequence.truncate(reader.length)
    return Candidate(sequence, sequence.text())
