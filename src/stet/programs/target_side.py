"""The target's side of stepwise decoding, whether the target is local or remote."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from stet.core.acceptance import Acceptance
from stet.core.block import Block
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Draft, Join, Operation, Score
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, Preference, ReadStep, StepPolicy, select_candidate
from stet.core.steps import Ends
from stet.core.trace import StepRecord
from stet.policies.exact import Exact
from stet.programs.parts import append, pick_candidate
from stet.programs.side_queries import ask_each

CUT_SHORT = "step cut short"
"""Why the target writes a step that a policy would have accepted: its candidate breaks off."""

PREFERRED = "step preferred to the target's"
"""Why a rejected step stands after all."""

LEAST = 1e-38
"""The smallest probability of which a logarithm is taken: smaller ones may have become 0."""


class UnreadableStep(StetError):
    """A step that the target could not be asked about, and which it writes for that reason."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A rejected candidate with which the target begins its own step.

    Attributes:
        candidate: the rejected candidate.
        acceptance: the decision about all its tokens, where the target's cache has read them
            already; None where it has not.
    """

    candidate: Candidate
    acceptance: Acceptance | None


@dataclass(frozen=True, slots=True)
class Rival:
    """A rejected candidate that may stand in the place of the target's step after all.

    Attributes:
        candidate: the rejected candidate, whole.
        read: what both models say of its tokens.
    """

    candidate: Candidate
    read: ReadStep


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What the target is to write in place of a step of the draft's.

    Attributes:
        policy: the policy that rejected that step; says how long one may be.
        ends: where the step ends.
        opening: the rejected candidate, where the step begins with it.
        rival: the rejected candidate, where the policy compares it with the target's step.
    """

    policy: StepPolicy
    ends: Ends
    opening: Opening | None
    rival: Rival | None = None


Writing = Generator[Operation, Any, tuple[Candidate, int]]
"""A part of a program that writes a step; it returns the step, and how many tokens the target
wrote."""


class TargetSide(ABC):
    """The target's side of `stepwise`.

    The program and its policy are the same for every target. A subclass says on which sequence the
    draft writes, which candidates can be accepted, how one is adopted, and how the target reads a
    candidate and writes a step.

    The argument `sequence` is always the answer of the request: the prompt and the accepted steps.
    """

    def attach(self, sequence: TokenSequence) -> AbstractContextManager[None]:
        """Make the context of the program, which frees on exit what is held beside `sequence`.

        Args:
            sequence: the answer.
        """
        del sequence
        return nullcontext()

    def follow(self, sequence: TokenSequence, start: int | None) -> bool:
        """Prepare for the draft's next step; False where the draft cannot go on.

        Args:
            sequence: the answer.
            start: where the step begins that the target has just written; None if the last step
                is the draft's, or there is none.
        """
        del sequence, start
        return True

    def draft_sequence(self, sequence: TokenSequence) -> TokenSequence:
        """The answer in the draft's tokens, on whose forks it writes candidates."""
        return sequence

    def offer(self, sequence: TokenSequence, written: list[Candidate]) -> list[Candidate]:
        """The candidates that the policy is shown; none where all are refused unseen.

        A candidate that breaks off is shown only where there is no other, for the record.

        Args:
            sequence: the answer.
            written: all candidates of the step.
        """
        del sequence
        return [c for c in written if not c.cut] or written

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a candidate is rejected whatever the policy decides; None if it is not."""
        return CUT_SHORT if candidate.cut else None

    def read(
        self, sequence: TokenSequence, candidate: Candidate
    ) -> Generator[Operation, Any, Acceptance]:
        """The target reads a candidate in one pass; the result holds a `Reading`."""
        block = Block(len(candidate.target_tokens), known=candidate.target_tokens)
        acceptance: Acceptance = yield Score(sequence, block, Exact(), reading=True)
        return acceptance

    def charge_reading(self, sequence: TokenSequence, acceptance: Acceptance) -> None:
        """Count a reading of which nothing was committed.

        Args:
            sequence: the answer.
            acceptance: what `read` returned.
        """
        sequence.charge_pass(acceptance.target_seconds)

    def ask(
        self,
        sequence: TokenSequence,
        candidates: Sequence[Candidate],
        question: str,
        answers: Sequence[str],
    ) -> Generator[Operation, Any, list[list[float]]]:
        """Put a question to the target behind each candidate; see `Step.ask`."""
        return (yield from ask_each(sequence, candidates, question, answers))

    def discard(self, sequence: TokenSequence, candidate: Candidate) -> None:
        """Count what a candidate of the draft cost that is not adopted."""
        sequence.charge(candidate.sequence)

    def adopt(
        self, sequence: TokenSequence, candidate: Candidate, reason: str, *, scored: bool
    ) -> None:
        """Continue the answer with an accepted candidate.

        Args:
            sequence: the answer.
            candidate: the accepted candidate.
            reason: why its tokens are in the answer.
            scored: whether the target's cache has read them.
        """
        candidate.sequence.explain(reason)
        sequence.adopt(candidate.sequence, scored=scored)

    def reserve(self, sequence: TokenSequence, candidate: Candidate) -> None:
        """Keep what is needed of a rejected candidate that opens the target's own step.

        Called while the candidate's fork is alive. By default nothing is needed.

        Args:
            sequence: the answer.
            candidate: the rejected candidate.
        """
        del sequence, candidate

    def rewrite(
        self, sequence: TokenSequence, task: Rewrite, record: StepRecord
    ) -> Generator[Operation, Any, tuple[str, bool]]:
        """The target writes the step; of several candidates the policy selects one.

        Where the policy compares it with the draft's, that one may stand all the same.

        Args:
            sequence: the answer.
            task: what to write.
            record: is given the target's candidates.

        Returns:
            The text of the step, and whether it is the draft's.
        """
        policy, rival = task.policy, task.rival
        count = policy.target_candidates
        sampling = policy.sampling(sequence.sampling) if count > 1 else None
        # What is chosen from is whole; a single one need not be written beyond the answer's end.
        with sequence.fork(count, sampling, bounded=count == 1 and rival is None) as forks:
            found: list[tuple[Candidate, int]] = yield Join(
                [self.write(sequence, fork, task) for fork in forks]
            )
            candidates = [candidate for candidate, _ in found]
            place = yield from select_candidate(policy, candidates)
            chosen = pick_candidate(place, candidates, policy)
            record.target_candidates = [c.text for c in candidates]
            record.target_tokens = sum(tokens for _, tokens in found)
            for candidate in candidates:
                if candidate is not chosen:
                    sequence.charge(candidate.sequence)
            preference = Preference(draft=False)
            if rival is not None:
                preference = yield from _compare(policy, rival, chosen)
                record.signals = {**record.signals, **preference.signals}
            if rival is None or not preference.draft:
                sequence.adopt(chosen.sequence)
                return chosen.text, False
            sequence.charge(chosen.sequence)
        append(sequence, rival.candidate.tokens, "draft", PREFERRED)
        record.decision, record.reason = "accepted", PREFERRED
        return rival.candidate.text, True

    @abstractmethod
    def write(self, sequence: TokenSequence, fork: TokenSequence, task: Rewrite) -> Writing:
        """The target writes a step on a fork.

        Args:
            sequence: the answer.
            fork: a fork of it.
            task: what to write.
        """


def _compare(
    policy: StepPolicy, rival: Rival, written: Candidate
) -> Generator[Operation, Any, Preference]:
    """Let a policy compare both steps, once the draft has read the target's."""
    sequence, count = written.sequence, len(written.tokens)
    whole = sequence.finish_reason in (None, "stop")
    if not (whole and count) or written.tokens == rival.candidate.tokens:
        return Preference(draft=False)
    said = [of.p_target for of in sequence.emitted if of.p_target is not None]
    if len(said) < count:  # the target does not say what it thinks of its own step
        return Preference(draft=False)
    block: Block = yield Draft(sequence, 1, read=count, needs=frozenset({Need.DRAFT_LOGPROBS}))
    sequence.counters.draft_passes += 1
    sequence.counters.draft_seconds += block.seconds
    assert block.logprobs is not None
    own = [math.log(max(probability, LEAST)) for probability in said]
    return policy.compare(rival.read, ReadStep(own, block.logprobs))


def open_step(
    sequence: TokenSequence, fork: TokenSequence, opening: Opening, first: list[int]
) -> Generator[Operation, Any, None]:
    """Commit what the exact rule accepts of a rejected candidate as a fork's first block.

    Args:
        sequence: the answer.
        fork: a fork of it.
        opening: the candidate.
        first: its beginning in the target's tokens, which is verified where it was not read yet.
    """
    acceptance = opening.acceptance
    if acceptance is None:
        acceptance = yield Score(fork, Block(len(first), known=first), Exact())
    else:
        sequence.lend_cache(fork, "target")
    fork.commit(acceptance)
