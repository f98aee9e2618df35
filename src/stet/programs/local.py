"""A local target with the draft's tokenizer: the two models share tokens and blocks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from copy import copy
from dataclasses import dataclass
from typing import Any

from stet.core.block import Block
from stet.core.draft_length import LONGEST
from stet.core.operations import Operation, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, StepPolicy
from stet.core.steps import Ends, StepReader
from stet.core.trace import StepRecord
from stet.policies.exact import Exact
from stet.programs.autoregressive import autoregressive
from stet.programs.speculative import speculative
from stet.programs.target_side import Opening, TargetSide


@dataclass(frozen=True)
class LocalTarget(TargetSide):
    """A target that writes its steps with the draft's help, block by block.

    Attributes:
        inner: the token policy that verifies the draft's blocks. The rejected candidate, which
            opens a rewrite, is verified by the exact rule, since its distributions were not kept.
    """

    inner: TokenPolicy

    def reserve(self, sequence: TokenSequence, candidate: Candidate) -> None:
        """Keep the draft's cache, which has read the candidate."""
        sequence.take_cache(candidate.sequence, "draft")

    def rewrite(
        self,
        sequence: TokenSequence,
        policy: StepPolicy,
        ends: Ends,
        record: StepRecord,
        opening: Opening | None,
    ) -> Generator[Operation, Any, str]:
        """The target writes the step, from the rejected candidate on or in candidates of its own.

        Returns:
            The text of the step.
        """
        if opening is None:
            return (yield from super().rewrite(sequence, policy, ends, record, None))
        with sequence.fork(1) as (fork,):
            candidate, _ = yield from self.write(sequence, fork, policy, ends, opening)
            sequence.adopt(fork)
        record.target_candidates = [candidate.text]
        record.target_tokens = len(candidate.tokens)  # as far as the answer did not end before
        return candidate.text

    def write(
        self,
        sequence: TokenSequence,
        fork: TokenSequence,
        policy: StepPolicy,
        ends: Ends,
        opening: Opening | None,
    ) -> Generator[Operation, Any, tuple[Candidate, int]]:
        """The target writes a step on a fork, in blocks that the draft proposes where it may.

        Returns:
            The step, and the number of its tokens.
        """
        if opening is not None:
            yield from _open(sequence, fork, opening)
        assert fork.decoder is not None
        reader = StepReader(fork.decoder, ends, policy.step_tokens)

        def complete(written: TokenSequence) -> bool:
            return reader.read(written.answer) is not None

        def completed_by_draft() -> Callable[[list[int]], bool]:
            ahead = copy(reader)
            return lambda drafted: ahead.read(fork.answer + drafted) is not None

        if policy.speculate:
            yield from speculative(fork, self.inner, complete, completed_by_draft)
        else:
            yield from autoregressive(fork, self.inner, complete)
        if reader.read(fork.answer) is not None:
            assert reader.length is not None
            fork.truncate(reader.length)
        candidate = Candidate(fork, fork.text())
        return candidate, len(candidate.tokens)


def _open(
    sequence: TokenSequence, fork: TokenSequence, opening: Opening
) -> Generator[Operation, Any, None]:
    """Commit what the exact rule accepts of a rejected candidate as a fork's first block."""
    sequence.lend_cache(fork, "draft")
    acceptance = opening.acceptance
    if acceptance is None:
        first = opening.candidate.tokens[:LONGEST]
        acceptance = yield Score(fork, Block(len(first), known=first), Exact())
    else:
        sequence.lend_cache(fork, "target")
    fork.commit(acceptance)
