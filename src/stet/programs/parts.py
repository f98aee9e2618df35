"""Parts of programs with steps: drafting a step, appending text, recording steps."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.core.block import Block, Statistics
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Draft, Operation
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, StepDecision, StepPolicy
from stet.core.steps import Ends, StepReader
from stet.core.trace import CandidateRecord, Counters, Origin, StepRecord
from stet.text.codec import Codec


def read_step(fork: TokenSequence, policy: StepPolicy, ends: Ends) -> StepReader:
    """Make the reader of a step that is written on a fork."""
    assert fork.decoder is not None
    return StepReader(fork.decoder, ends, policy.step_tokens)


def draft_step(
    sequence: TokenSequence, policy: StepPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The draft writes a step on a fork."""
    reader = read_step(sequence, policy, ends)
    parts: list[_Part] = []
    logprobs: list[float] = []
    capture, doubt = policy.capture, policy.doubt(sequence.sampling)
    needs = policy.needs if doubt is None else policy.needs | {Need.DRAFT_LOGPROBS}

    def complete(written: list[int]) -> bool:
        return reader.read(sequence.answer + written) is not None

    def hopeless(drafted: list[float]) -> bool:
        """Whether the target has to write the step, and there is enough for its first block."""
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
            needs=needs,
            capture=capture,
        )
        sequence.commit(block)
        if doubt is not None and block.statistics is not None:
            logprobs += block.statistics.logprobs
        parts.append(_Part.of(block, policy))
        del block  # and with it the distributions
        reader.read(sequence.answer)
    if reader.length is not None:  # where `until` was not called on the way, more was written
        sequence.truncate(reader.length)
    candidate = _make_candidate(sequence, parts, policy)
    candidate.cut = reader.length is None and sequence.finish_reason != "stop"
    return candidate


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a candidate that one stretch of drafting wrote, without its distributions.

    Attributes:
        statistics: the statistics that the policy reads.
        hidden: see `Block`.
        attention: see `Block`.
    """

    statistics: Statistics | None
    hidden: Tensor | None
    attention: dict[float, Tensor] | None

    @classmethod
    def of(cls, block: Block, policy: StepPolicy) -> _Part:
        """Make a part of a block, without its distributions."""
        found = block.statistics if Need.DRAFT_LOGPROBS in policy.needs else None
        statistics = None if found is None else found.select(policy.statistics)
        return cls(statistics, block.hidden, block.attention)


def _make_candidate(sequence: TokenSequence, parts: list[_Part], policy: StepPolicy) -> Candidate:
    """Make a candidate with what the policy asked for, and nothing that others asked for."""
    count = len(sequence.answer)
    statistics = hidden = attention = None
    if Need.DRAFT_LOGPROBS in policy.needs:
        found = [s for part in parts if (s := part.statistics) is not None]
        statistics = Statistics.join(found, count)
    if Need.DRAFT_HIDDEN in policy.needs:
        states = [h for part in parts if (h := part.hidden) is not None]
        hidden = torch.cat(states)[:count].float()
    capture = policy.capture
    if capture is not None:
        seen = [a for part in parts if (a := part.attention) is not None]
        attention = {
            floor: _join_attention([a[floor][-capture.layers :] for a in seen], sequence)
            for floor in capture.floors
        }
    return Candidate(sequence, sequence.text(), statistics, hidden, attention)


def _join_attention(parts: list[Tensor], sequence: TokenSequence) -> Tensor:
    """Join a candidate's attention, [layers, T, S], see `Candidate`.

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


def is_whole(sequence: TokenSequence, codec: Codec) -> bool:
    """Whether an answer ends with a whole character.

    Args:
        sequence: the answer.
        codec: converts its tokens.
    """
    return codec.text_after(sequence.tokens, sequence.prompt_length) is not None


def pick_candidate(place: int, candidates: list[Candidate], policy: StepPolicy) -> Candidate:
    """Look up the candidate that a policy chose.

    Raises:
        StetError: there is none at that place.
    """
    if not 0 <= place < len(candidates):
        raise StetError(
            f"Policy {policy.name!r} chose candidate {place} of {len(candidates)}; the first is 0."
        )
    return candidates[place]


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
        sequence: the sequence that is continued.
        tokens: the tokens that follow it.
        origin: the model that wrote their text.
        reason: why they are in the answer.
        scored: the target's cache of this sequence has read them already.
        ending: whether a stop token among them ends the sequence.
    """
    with sequence.fork(1) as (copy,):
        if not ending:
            copy.limits = replace(copy.limits, stop_token_ids=frozenset())
        copy.commit(Block(len(tokens), known=tokens))
        copy.explain(reason, origin)
        copy.counters.draft_passes = 0  # the passes of whatever wrote the text were counted there
        sequence.adopt(copy, scored=scored)


def record_of(position: int, candidates: list[Candidate], decision: StepDecision) -> StepRecord:
    """Make the record of a step at its decision: its candidates, and no tokens yet."""
    details = list(decision.details) or [{} for _ in candidates]
    return StepRecord(
        position=position,
        tokens=0,
        decision="accepted" if decision.accepted else "rewritten",
        reason=decision.reason,
        candidates=[
            CandidateRecord(c.text, list(c.tokens), signals)
            for c, signals in zip(candidates, details, strict=True)
        ],
        chosen=decision.chosen,
        signals=decision.signals,
        normalised=decision.normalised,
        score=decision.score,
        threshold=decision.threshold,
        draft_tokens=sum(len(c.tokens) for c in candidates),
    )


def conclude(sequence: TokenSequence, record: StepRecord, before: Counters, accepted: bool) -> None:
    """Record a step of the answer, and its time since the counters were as in `before`."""
    record.tokens = len(sequence.answer) - record.position
    record.draft_seconds = sequence.counters.draft_seconds - before.draft_seconds
    record.target_seconds = sequence.counters.target_seconds - before.target_seconds
    sequence.steps.append(record)
    sequence.counters.steps += 1
    sequence.counters.accepted_steps += accepted
