"""Traces: what a request emitted and why, as typed records.

One `RequestTrace` per request holds every emitted token with its origin and reason, every block
with what was accepted of it, and the counters. It is written as JSON lines, one request a line, in
the format that `trace.schema.json` describes; `VERSION` changes whenever lines that were written
before can no longer be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from stet.core.reading import read_records
from stet.core.upgrades import upgrade_trace
from stet.core.writing import append_lines, json_line

VERSION = 3

Origin = Literal["draft", "target"]
"""The model that wrote an emitted token."""

FinishReason = Literal["stop", "length", "loop", "cancelled", "timeout", "error"]
"""Why a request ended: a stop token or string, its token limit, a loop of the draft, or an external
reason."""


@dataclass(slots=True)
class TokenRecord:
    """One emitted token.

    Attributes:
        id: the token.
        text: the token alone as text; a part of a character shows as a replacement character.
        origin: the model that wrote it.
        reason: why it was emitted, one of the policy's reasons.
        p_target: the target's raw probability of it, where recorded.
        p_draft: the draft's raw probability of it, where recorded and the draft was asked.
        top_logprobs: the target's n most probable tokens here with their raw log-probabilities,
            where asked for.
    """

    id: int
    text: str
    origin: Origin
    reason: str
    p_target: float | None = None
    p_draft: float | None = None
    top_logprobs: dict[int, float] | None = None


@dataclass(slots=True)
class MismatchRecord:
    """A mismatch that an arbitrating policy decided about.

    Attributes:
        at: position in the block.
        draft: the draft's token.
        target: the token that the target would have put there.
        score: the probability that the draft's token is the one to accept, as the policy computes
            it.
        accepted: whether the draft's token was accepted.
        features: what the score was computed from, where the policy was asked to record it.
    """

    at: int
    draft: int
    target: int
    score: float
    accepted: bool
    features: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class BlockRecord:
    """One drafted block and the decision about it.

    Attributes:
        position: index of the block's first token among the emitted tokens.
        drafted: the drafted tokens.
        accepted: how many of them were accepted.
        accepted_mismatches: positions in the block where the draft's token was accepted against
            the target's.
        next_token: the token that follows the accepted ones; None where the policy deferred it or
            the answer ended before it.
        mismatches: the mismatches in it that an arbitrating policy decided about, where it says so.
    """

    position: int
    drafted: list[int]
    accepted: int
    accepted_mismatches: list[int]
    next_token: int | None
    mismatches: list[MismatchRecord] = field(default_factory=list[MismatchRecord])


@dataclass(slots=True)
class CandidateRecord:
    """One candidate of a step.

    Attributes:
        text: its text.
        ids: its tokens.
        signals: its raw signals, by name.
    """

    text: str
    ids: list[int]
    signals: dict[str, float]


@dataclass(slots=True)
class StepRecord:
    """One step of reasoning and the decision about it.

    Attributes:
        position: index of the step's first token among the emitted tokens.
        tokens: tokens of the step in the answer.
        decision: "accepted" for the draft's, "rewritten" for the target's; in a shadow run, what
            would have been decided.
        reason: why it was accepted or rejected, in the policy's words.
        candidates: the draft's candidates.
        chosen: the candidate that was chosen, as an index.
        signals: raw signals of the chosen candidate, by name.
        normalised: signals of the chosen candidate as the score takes them, from 0 (worst) to 1.
        score: the number that was compared with the threshold; None where there is none.
        threshold: the lowest score of an accepted step; None where there is none.
        target_candidates: texts of the target's candidates, where it rewrote the step.
        draft_tokens: tokens the draft wrote for this step, all candidates together.
        target_tokens: tokens the target wrote for this step, all candidates together.
        draft_seconds: time in the draft for this step.
        target_seconds: time in the target for this step.
    """

    position: int
    tokens: int
    decision: Literal["accepted", "rewritten"]
    reason: str
    candidates: list[CandidateRecord]
    chosen: int
    signals: dict[str, float]
    normalised: dict[str, float]
    score: float | None = None
    threshold: float | None = None
    target_candidates: list[str] = field(default_factory=list[str])
    draft_tokens: int = 0
    target_tokens: int = 0
    draft_seconds: float = 0.0
    target_seconds: float = 0.0


@dataclass(slots=True)
class Counters:
    """Counts of a request's tokens, passes and seconds.

    Attributes:
        emitted_tokens: tokens in the answer.
        drafts: blocks of at least one token that were verified.
        drafted_tokens: tokens in those blocks.
        accepted_tokens: drafted tokens that were accepted and are part of the answer.
        accepted_per_position: accepted tokens by position in the block.
        target_passes: forward passes of the target after the prompt.
        draft_passes: forward passes of the draft after the prompt.
        target_seconds: time in the target, shared evenly among the rows of a batch.
        draft_seconds: time in the draft, shared evenly among the rows of a batch.
        steps: steps of reasoning that were decided about.
        accepted_steps: steps of the draft that were accepted.
        target_requests: requests to a remote target, tries of one counted once.
        target_read_tokens: tokens that a remote target read in order to say how probable a step
            is: each time the whole text, prompt included.
        target_read_seconds: time of these requests, which is part of `target_seconds`.
    """

    emitted_tokens: int = 0
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list[int])
    target_passes: int = 0
    draft_passes: int = 0
    target_seconds: float = 0.0
    draft_seconds: float = 0.0
    steps: int = 0
    accepted_steps: int = 0
    target_requests: int = 0
    target_read_tokens: int = 0
    target_read_seconds: float = 0.0

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the drafted tokens that were accepted; None where nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens per verified block, its next token included: 1 + accepted / drafts."""
        return 1 + self.accepted_tokens / self.drafts if self.drafts else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Emitted tokens per forward pass of the target; None where there was none."""
        return self.emitted_tokens / self.target_passes if self.target_passes else None

    def add(self, other: Counters) -> None:
        """Add another request's counts to these."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.count_accepted(other.accepted_per_position)

    def count_accepted(self, per_position: Iterable[int]) -> None:
        """Add to the accepted tokens per position."""
        for position, count in enumerate(per_position):
            if position == len(self.accepted_per_position):
                self.accepted_per_position.append(0)
            self.accepted_per_position[position] += count

    def uncount_accepted(self, positions: Iterable[int]) -> None:
        """Subtract accepted tokens that are no longer part of the answer."""
        for position in positions:
            self.accepted_tokens -= 1
            self.accepted_per_position[position] -= 1

    def as_metrics(self) -> dict[str, Any]:
        """The counts under vLLM's per-request names (`metrics.speculative_decoding`)."""
        drafts = self.drafts
        longest = len(self.accepted_per_position)
        # Exactly n accepted: blocks with position n - 1 accepted less those with position n.
        at_least = [drafts, *self.accepted_per_position, 0]
        histogram = [at_least[n] - at_least[n + 1] for n in range(longest + 1)]
        return {
            "mean_acceptance_length": self.mean_acceptance_length,
            "draft_acceptance_rate": self.acceptance_rate,
            "acceptance_histogram": histogram if drafts else [],
            "num_spec_steps": drafts,
            "num_accepted_draft_tokens": self.accepted_tokens,
            "num_draft_tokens": self.drafted_tokens,
        }


_SUMMED = (
    "emitted_tokens",
    "drafts",
    "drafted_tokens",
    "accepted_tokens",
    "target_passes",
    "draft_passes",
    "target_seconds",
    "draft_seconds",
    "steps",
    "accepted_steps",
    "target_requests",
    "target_read_tokens",
    "target_read_seconds",
)


@dataclass(slots=True)
class Settings:
    """The settings that are needed to repeat a request.

    Attributes:
        policy: name and parameters of the policy.
        lossless: whether the policy promises the target's own distribution.
        sampling: the sampling parameters.
        draft_length: the rule that chose the blocks' lengths, with the costs it was given.
        target: name and revision of the target.
        draft: name and revision of the draft; None for prompt lookup.
        stet: version of this software.
        chat: the chat template that made the prompt: its SHA-256, and the arguments it was given;
            None for a prompt that was used as it is.
    """

    policy: dict[str, Any]
    lossless: bool
    sampling: dict[str, Any]
    draft_length: dict[str, Any]
    target: dict[str, Any]
    draft: dict[str, Any] | None
    stet: str
    chat: dict[str, Any] | None = None


@dataclass(slots=True)
class RequestTrace:
    """The trace of one request: settings, text, tokens, blocks, steps and counters."""

    request: int
    settings: Settings
    prompt: str
    prompt_tokens: int
    text: str
    finish_reason: FinishReason
    seconds: float
    tokens: list[TokenRecord]
    blocks: list[BlockRecord]
    counters: Counters
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    version: int = VERSION

    def to_json(self) -> str:
        """Serialise the trace as one line of JSON."""
        return json_line(asdict(self), default=_name)


def _name(value: Any) -> str:
    """Name a parameter that JSON cannot hold, such as a function."""
    return getattr(value, "__qualname__", None) or repr(value)


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(RequestTrace))


def json_schema() -> dict[str, Any]:
    """The published schema of one line of a trace file."""
    schema = _adapter().json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write(traces: Iterable[RequestTrace], path: Path) -> None:
    """Append traces to a JSONL file.

    Raises:
        FileError: it cannot be written; it is left as it was.
    """
    append_lines(path, (trace.to_json() for trace in traces), durable=False)


def read(path: Path) -> list[RequestTrace]:
    """Read the traces of a JSONL file; a last line that an interrupted write cut short is left out.

    Raises:
        FileError: naming the first line that is not a trace of this version.
    """
    return list(read_records(path, _adapter(), f"a trace of version {VERSION}", upgrade_trace))


if __name__ == "__main__":  # python -m stet.core.trace > src/stet/core/trace.schema.json
    print(json.dumps(json_schema(), indent=1))
