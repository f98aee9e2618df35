"""Step by step for two models whose tokenizers differ: what they exchange is text."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from stet.core.acceptance import Acceptance
from stet.core.block import EMPTY, Block
from stet.core.draft_length import LONGEST
from stet.core.operations import Join, Operation, Program, Score
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, Step, StepDecision, StepPolicy, selected
from stet.core.steps import Ends, LoopGuard, StepReader, ends_of
from stet.core.trace import Origin, StepRecord
from stet.policies.exact import Exact
from stet.programs.autoregressive import autoregressive
from stet.programs.parts import (
    Reader,
    conclude,
    drafted,
    offered,
    pick,
    record_of,
    ruled,
)
from stet.text.codec import Codec

UNTRANSLATABLE = "step cannot be said in the target's tokens"
"""Why the target writes a step that the policy was never shown."""

UNREADABLE = "; the draft cannot read it, so the target writes on alone"
"""Added to the reason of a step after which the draft is not asked again."""


@dataclass(slots=True, eq=False)
class CrossTokenizer:
    """The same text in the draft's tokens.

    Both lists only grow, and at the end of every step they read alike.

    Attributes:
        sequence: prompt and answer in the draft's tokens.
        draft: between text and these.
        target: between text and the target's tokens.
        end: the target's token for the end of an answer; None where nothing ends one.
    """

    sequence: TokenSequence
    draft: Codec
    target: Codec
    end: int | None = None

    def translate(self, sequence: TokenSequence, candidate: Candidate) -> None:
        """Put a candidate into the target's tokens, behind those of `sequence`, if possible."""
        fork = candidate.sequence
        ended = fork.finish_reason == "stop"
        written = fork.tokens[:-1] if ended else fork.tokens
        text = self.draft.text_after(written, fork.prompt_length)
        tokens = None if text is None else self.target.tokens_after(sequence.tokens, text)
        if tokens is None:
            return
        if ended and self.end is not None:
            tokens.append(self.end)
        candidate.cut |= len(tokens) > sequence.room
        candidate.translated = tokens[: sequence.room]

    def read(self, sequence: TokenSequence, start: int) -> bool:
        """Take over what stands in `sequence` from `start` on; False if the draft cannot read it.

        Args:
            sequence: prompt and answer in the target's tokens.
            start: a place in them up to which both read alike.
        """
        text = self.target.text_after(sequence.tokens, start)
        tokens = None if text is None else self.draft.tokens_after(self.sequence.tokens, text)
        if tokens is None:
            return False
        # What the target did not end at is no end, even if it is a token at which the draft stops.
        append(self.sequence, tokens, "target", "", ending=False)
        return True


def cross_tokenizer_stepwise(
    sequence: TokenSequence, crossing: CrossTokenizer, policy: StepPolicy
) -> Program:
    """`stepwise` for models without a common vocabulary.

    The draft writes candidates in its own tokens. What stands is put into the target's, what the
    target writes into the draft's; neither ever reads a token twice. The target writes without
    blocks of the draft's, but for the rejected candidate, with which it begins.

    Args:
        sequence: what is written to, in the target's tokens.
        crossing: the same in the draft's, with nothing written yet.
        policy: judges the steps.
    """
    ends, guard = ends_of(policy.delimiter), LoopGuard(policy.loop_after)
    crossing.sequence.release = sequence.release
    try:
        while not sequence.finished:
            if crossing.sequence.finished:  # it has no room for more of the draft's tokens
                sequence.close("length")
                break
            start = len(sequence.tokens)
            text, accepted = yield from _step(sequence, crossing, policy, ends)
            if guard.stuck(text, drafted=accepted):
                sequence.close("loop")
            if accepted or sequence.finish_reason is not None:
                continue
            if not crossing.read(sequence, start):
                sequence.steps[-1].reason += UNREADABLE
                break
    finally:
        crossing.sequence.release(crossing.sequence)
    yield from autoregressive(sequence, Exact())


def append(
    sequence: TokenSequence,
    tokens: list[int],
    origin: Origin,
    reason: str,
    *,
    scored: bool = False,
    ending: bool = True,
) -> None:
    """Continue with tokens that no model wrote here, as far as limits and stops allow.

    Args:
        sequence: what is written to.
        tokens: what follows it.
        origin: who wrote their text.
        reason: why they stand.
        scored: the target's cache of this sequence has read them already.
        ending: whether a stop token among them ends the sequence.
    """
    with sequence.fork(1) as (copy,):
        if not ending:
            copy.limits = replace(copy.limits, stop_token_ids=frozenset())
        copy.commit(Block(len(tokens), known=tokens))
        copy.origins = [origin] * len(copy.origins)
        copy.reasons = [reason] * len(copy.reasons)
        copy.counters.draft_passes = 0  # whoever wrote the text has counted its own
        sequence.adopt(copy, scored=scored)


def _step(
    sequence: TokenSequence, crossing: CrossTokenizer, policy: StepPolicy, ends: Ends
) -> Generator[Operation, Any, tuple[str, bool]]:
    """One step; returns its text, and whether it is the draft's."""
    position, before = len(sequence.answer), replace(sequence.counters)
    side, text = crossing.sequence, None
    with side.fork(policy.candidates, policy.sampling(side.sampling), bounded=False) as forks:
        written: list[Candidate] = yield Join([drafted(f, policy, ends) for f in forks])
        for candidate in written:
            sequence.charge(candidate.sequence)
            crossing.translate(sequence, candidate)
        candidates = offered([c for c in written if c.translated is not None])
        reader = Reader(sequence, candidates, Exact())
        if candidates:
            step = Step(sequence, len(sequence.steps), candidates, reader.read)
            decision = yield from policy.judge(step)
        else:
            candidates = written
            decision = StepDecision(0, accepted=False, reason=UNTRANSLATABLE)
        chosen = pick(decision.chosen, candidates, policy)
        decision, accepted = ruled(decision, chosen, policy)
        record = record_of(position, candidates, decision)
        record.draft_tokens = sum(len(c.tokens) for c in written)
        if accepted:
            side.adopt(chosen.sequence)
    mends = not accepted and policy.target_candidates == 1 and policy.speculate
    acceptance = reader.take(chosen if mends else None)
    if accepted:
        text = chosen.text
        scored = reader.has_read(chosen)
        append(sequence, chosen.target_tokens, "draft", decision.reason, scored=scored)
        if chosen.sequence.finish_reason == "stop":
            sequence.close("stop")
    else:
        opening = (chosen.translated or []) if mends else []
        text = yield from _rewritten(sequence, crossing, policy, ends, record, opening, acceptance)
    conclude(sequence, record, before, accepted)
    return text, accepted


def _rewritten(
    sequence: TokenSequence,
    crossing: CrossTokenizer,
    policy: StepPolicy,
    ends: Ends,
    record: StepRecord,
    opening: list[int],
    acceptance: Acceptance | None,
) -> Generator[Operation, Any, str]:
    """The target writes the step; of several candidates the policy picks one.

    Args:
        sequence: what stands.
        crossing: the same in the draft's tokens.
        policy: whose limits count.
        ends: where the step ends.
        record: takes what was written.
        opening: the candidate that was refused, in the target's tokens, if it is to open the step.
        acceptance: on the whole of it, where the target's cache has read it already.
    """
    count = policy.target_candidates
    sampling = policy.sampling(sequence.sampling) if count > 1 else None
    # What is chosen from is whole; a single one need not be written beyond the answer's end.
    with sequence.fork(count, sampling, bounded=count == 1) as forks:
        if acceptance is not None:
            sequence.lend_cache(forks[0], "target")
            forks[0].commit(acceptance)
            opening = []
        candidates: list[Candidate] = yield Join(
            [_by_target(f, crossing.target, policy, ends, opening) for f in forks]
        )
        place = yield from selected(policy, candidates)
        chosen = pick(place, candidates, policy)
        record.target_candidates = [c.text for c in candidates]
        for candidate in candidates:
            record.target_tokens += len(candidate.tokens)
            if candidate is not chosen:
                sequence.charge(candidate.sequence)
        sequence.adopt(chosen.sequence)
    return chosen.text


def _by_target(
    sequence: TokenSequence, codec: Codec, policy: StepPolicy, ends: Ends, opening: list[int]
) -> Generator[Operation, Any, Candidate]:
    """The target writes a step on a fork.

    Args:
        sequence: the fork.
        codec: between text and the target's tokens.
        policy: says how long a step may be.
        ends: where a step ends.
        opening: tokens that are verified as one block before the target goes on by itself; being
            fixed, they leave its distribution as it is.
    """
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)
    opening = opening[: min(LONGEST, sequence.room - 1)]
    block = Block(len(opening), known=opening)
    while not (sequence.finished or reader.read(sequence.answer) is not None):
        sequence.commit((yield Score(sequence, block, Exact())))
        block = EMPTY
    if reader.read(sequence.answer) is not None:
        assert reader.length is not None
        sequence.truncate(reader.length)
    # What is exchanged is text, so a step ends with a whole character.
    while not sequence.finished and _is_cut(sequence, codec):
        sequence.commit((yield Score(sequence, EMPTY, Exact())))
    return Candidate(sequence, sequence.text())


def _is_cut(sequence: TokenSequence, codec: Codec) -> bool:
    return codec.text_after(sequence.tokens, sequence.prompt_length) is None
