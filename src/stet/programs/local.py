"""A local target with the draft's tokenizer: the two models share tokens and blocks."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

from stet.core.draft_length import LONGEST
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate
from stet.programs.autoregressive import autoregressive
from stet.programs.parts import read_step
from stet.programs.speculative import speculative
from stet.programs.target_side import Rewrite, TargetSide, Writing, open_step


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

    def write(self, sequence: TokenSequence, fork: TokenSequence, task: Rewrite) -> Writing:
        """The target writes a step on a fork, in blocks that the draft proposes where it may."""
        if (opening := task.opening) is not None:
            sequence.lend_cache(fork, "draft")
            yield from open_step(sequence, fork, opening, opening.candidate.tokens[:LONGEST])
        reader = read_step(fork, task.policy, task.ends)

        def complete(written: TokenSequence) -> bool:
            return reader.read(written.answer) is not None

        def completed_by_draft() -> Callable[[list[int]], bool]:
            ahead = copy(reader)
            return lambda drafted: ahead.read(fork.answer + drafted) is not None

        if task.policy.speculate:
            yield from speculative(fork, self.inner, complete, completed_by_draft)
        else:
            yield from autoregressive(fork, self.inner, complete)
        if (length := reader.read(fork.answer)) is not None:
            fork.truncate(length)
        return Candidate(fork, fork.text()), len(fork.answer)
