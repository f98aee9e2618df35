"""What every program that goes step by step does alike: drafting, reading and recording a step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.core.acceptance import Acceptance
from stet.core.block import Block, Reading, Statistics
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Draft, Operation, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, StepDecision, StepPolicy
from stet.core.steps import Ends, StepReader
from stet.core.trace import CandidateRecord, Counters, StepRecord

CUT_SHORT = "step cut short"
"""Why the target writes a step that a policy would have kept: its candidate breaks off."""


class Reader:
    """Lets the target read candidates, and keeps what it ruled on the last one on the way."""

    def __init__(
        self, sequence: TokenSequence, candidates: list[Candidate], inner: TokenPolicy
    ) -> None:
        self._sequence = sequence
        self._candidates = candidates
        self._inner = inner
        self._last: Candidate | None = None
        self._acceptance: Acceptance | None = None

    def read(self, place: int) -> Generator[Operation, Any, Reading]:
        """One target pass over a candidate."""
        self.take(None)
        candidate = self._candidates[place]
        block = Block(len(candidate.target_tokens), known=candidate.target_tokens)
        acceptance: Acceptance = yield Score(self._sequence, block, self._inner, reading=True)
        assert acceptance.reading is not None
        self._last, self._acceptance = candidate, acceptance
        return acceptance.reading

    def has_read(self, candidate: Candidate) -> bool:
        """Whether the target's cache holds a candidate."""
        return candidate is self._last

    def take(self, candidate: Candidate | None) -> Acceptance | None:
        """The ruling on a candidate that the target has read, to be committed.

        A ruling that is not taken is counted for its pass alone.
        """
        acceptance, self._acceptance = self._acceptance, None
        if acceptance is None or candidate is self._last:
            return acceptance
        self._sequence.charge_pass(acceptance.target_seconds)
        return None


def drafted(
    sequence: TokenSequence, policy: StepPolicy, ends: Ends
) -> Generator[Operation, Any, Candidate]:
    """The draft writes a step on a fork."""
    assert sequence.decoder is not None
    reader = StepReader(sequence.decoder, ends, policy.step_tokens)
    parts: list[_Part] = []
    logprobs: list[float] = []
    capture, doubt = policy.capture, policy.doubt(sequence.sampling)
    needs = policy.needs if doubt is None else policy.needs | {Need.DRAFT_LOGPROBS}

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
            needs=needs,
            capture=capture,
        )
        sequence.commit(block)
        if doubt is not None and block.statistics is not None:
            logprobs += block.statistics.logprobs
        parts.append(_Part.of(block, policy))
        del block  # and with it the distributions
        reader.read(sequence.answer)
    if reader.length is not None:  # where nobody looked on the way, more was written
        sequence.truncate(reader.length)
    candidate = _candidate(sequence, parts, policy)
    candidate.cut = reader.length is None and sequence.finish_reason != "stop"
    return candidate


@dataclass(frozen=True, slots=True)
class _Part:
    """What is kept of a stretch of drafting: of a step's distributions there would be too many.

    Attributes:
        statistics: those that the policy reads.
        hidden: see `Block`.
        attention: see `Block`.
    """

    statistics: Statistics | None
    hidden: Tensor | None
    attention: dict[float, Tensor] | None

    @classmethod
    def of(cls, block: Block, policy: StepPolicy) -> _Part:
        """A block, without its distributions."""
        found = block.statistics if Need.DRAFT_LOGPROBS in policy.needs else None
        statistics = None if found is None else found.only(policy.statistics)
        return cls(statistics, block.hidden, block.attention)


def _candidate(sequence: TokenSequence, parts: list[_Part], policy: StepPolicy) -> Candidate:
    """What was written, with what the policy asked for; other requests' wishes leave no trace."""
    count = len(sequence.answer)
    statistics = hidden = attention = None
    if Need.DRAFT_LOGPROBS in policy.needs:
        found = [s for part in parts if (s := part.statistics) is not None]
        statistics = Statistics.joined(found, count)
    if Need.DRAFT_HIDDEN in policy.needs:
        states = [h for part in parts if (h := part.hidden) is not None]
        hidden = torch.cat(states)[:count].float()
    capture = policy.capture
    if capture is not None:
        seen = [a for part in parts if (a := part.attention) is not None]
        attention = {
            floor: _joined([a[floor][-capture.layers :] for a in seen], sequence)
            for floor in capture.floors
        }
    return Candidate(sequence, sequence.text(), statistics, hidden, attention)


def _joined(parts: list[Tensor], sequence: TokenSequence) -> Tensor:
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


def offered(candidates: list[Candidate]) -> list[Candidate]:
    """Those that may stand; where there are none, all of them, for the record."""
    return [c for c in candidates if not c.cut] or candidates


def ruled(
    decision: StepDecision, chosen: Candidate, policy: StepPolicy
) -> tuple[StepDecision, bool]:
    """What was judged, and whether the candidate stands: one that breaks off never does."""
    if decision.accepted and chosen.cut:
        decision = replace(decision, accepted=False, reason=CUT_SHORT)
    return decision, decision.accepted and not policy.shadow


def pick(place: int, candidates: list[Candidate], policy: StepPolicy) -> Candidate:
    """The candidate that a policy chose.

    Raises:
        StetError: there is none at that place.
    """
    if not 0 <= place < len(candidates):
        raise StetError(
            f"Policy {policy.name!r} chose candidate {place} of {len(candidates)}; the first is 0."
        )
    return candidates[place]


def explain(sequence: TokenSequence, reason: str) -> None:
    """Give every token of a sequence the same reason."""
    sequence.reasons = [reason] * len(sequence.reasons)


def record_of(position: int, candidates: list[Candidate], decision: StepDecision) -> StepRecord:
    """The candidates of a step and what was judged, before anything of it stands."""
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
    """Write down a step that stands, and what it took since the counters were as in `before`."""
    record.tokens = len(sequence.answer) - record.position
    record.draft_seconds = sequence.counters.draft_seconds - before.draft_seconds
    record.target_seconds = sequence.counters.target_seconds - before.target_seconds
    sequence.steps.append(record)
    sequence.counters.steps += 1
    sequence.counters.accepted_steps += accepted
