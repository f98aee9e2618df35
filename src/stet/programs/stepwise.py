"""Stepwise decoding: the draft writes a step, a policy decides, the target rewrites it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from stet.core.operations import Join, Operation, Program
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, ReadStep, Step, StepDecision, StepPolicy
from stet.core.steps import Ends, LoopGuard, ends_of
from stet.policies.exact import Exact
from stet.programs.asking import Reader
from stet.programs.autoregressive import autoregressive
from stet.programs.parts import conclude, draft_step, pick_candidate, record_of
from stet.programs.target_side import (
    Opening,
    Rewrite,
    Rival,
    TargetSide,
    UnreadableStep,
)


def stepwise(sequence: TokenSequence, policy: StepPolicy, side: TargetSide) -> Program:
    """The draft writes candidates of a step, the policy decides, the target rewrites the rejected.

    Args:
        sequence: the answer; it needs a decoder, since steps end in text.
        policy: decides about each step.
        side: the target, local or remote.
    """
    ends, guard = ends_of(policy.delimiter), LoopGuard(policy.loop_after)
    rewritten: int | None = None
    if policy.compares:
        sequence.limits = replace(sequence.limits, target_probabilities=True)
    with side.attach(sequence):
        while not sequence.finished and side.follow(sequence, rewritten):
            start = len(sequence.tokens)
            text, accepted = yield from _step(sequence, policy, side, ends)
            rewritten = None if accepted else start
            if guard.push(text, drafted=accepted):
                sequence.close("loop")
    # Where the draft could not follow, the target writes the rest alone.
    yield from autoregressive(sequence, Exact())


def _step(
    sequence: TokenSequence, policy: StepPolicy, side: TargetSide, ends: Ends
) -> Generator[Operation, Any, tuple[str, bool]]:
    """Run one step; return its text, and whether the draft's was accepted."""
    position, before = len(sequence.answer), replace(sequence.counters)
    opens = policy.target_candidates == 1 and policy.speculate
    base = side.draft_sequence(sequence)
    with base.fork(policy.candidates, policy.sampling(base.sampling), bounded=False) as forks:
        written: list[Candidate] = yield Join([draft_step(f, policy, ends) for f in forks])
        candidates = side.offer(sequence, written)
        reader = Reader(sequence, candidates, side)
        readable = True
        if candidates:
            step = Step(sequence, len(sequence.steps), candidates, reader.read, reader.ask)
            try:
                decision = yield from policy.judge(step)
            except UnreadableStep as unread:
                readable = False
                decision = StepDecision(0, accepted=False, reason=str(unread))
        else:
            candidates = written
            decision = StepDecision(0, accepted=False, reason=side.refusal(written[0]) or "")
        chosen = pick_candidate(decision.chosen, candidates, policy)
        if decision.accepted and (refusal := side.refusal(chosen)) is not None:
            decision = replace(decision, accepted=False, reason=refusal)
        accepted = decision.accepted and not policy.shadow
        record = record_of(position, candidates, decision)
        record.draft_tokens = sum(len(c.tokens) for c in written)
        for candidate in written:
            if not (accepted and candidate is chosen):
                side.discard(sequence, candidate)
        if accepted:
            side.adopt(sequence, chosen, decision.reason, scored=reader.has_read(chosen))
        elif opens:
            side.reserve(sequence, chosen)
        rival = None
        stands = side.refusal(chosen) is None and not policy.shadow
        if not accepted and policy.compares and stands and readable:
            with suppress(UnreadableStep):  # then there is nothing to compare, and it is rewritten
                reading = yield from reader.reading_of(chosen)
                rival = Rival(chosen, ReadStep(reading, chosen.statistics.logprobs))
    text = chosen.text
    if accepted:
        reader.take(None)
    else:
        acceptance = reader.take(chosen if opens else None)
        opening = Opening(chosen, acceptance) if opens else None
        task = Rewrite(policy, ends, opening, rival)
        text, accepted = yield from side.rewrite(sequence, task, record)
    conclude(sequence, record, before, accepted)
    return text, accepted
