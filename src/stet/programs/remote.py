"""Remote decoding: the target is sent text, and answers with text."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stet.core.acceptance import Acceptance
from stet.core.block import Reading
from stet.core.operations import Await, Operation, Program
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, StepPolicy
from stet.core.steps import SENTENCE, Delimiter, Ends
from stet.programs.parts import append, is_whole
from stet.programs.remote_reader import Cost, RemoteReader
from stet.programs.remote_writer import Begun, RemoteText, RemoteWriter
from stet.programs.stepwise import stepwise
from stet.programs.target_side import Opening, Rewrite, TargetSide, UnreadableStep, Writing
from stet.remote.client import together

CUT = "step ends inside a character"
"""Why the target writes a step that the policy would have accepted: a part of a character cannot be
sent."""

_MOST_STOPS = 4
"""Stop strings that an endpoint takes."""


ACCEPTED = "accepted"
"""The reason for a token of a rejected candidate that the target would have written itself."""

UNREAD = "step cannot be read in the target's tokens"
"""Why the target writes a step of which it does not say how probable it is."""

UNANSWERED = "question not answered by the target"
"""Why the target writes a step: no answer is among what it says."""


def remote_stepwise(sequence: TokenSequence, policy: StepPolicy, writer: RemoteWriter) -> Program:
    """Stepwise decoding with a remote target, which is asked first whether it can say what it must.

    Args:
        sequence: the answer.
        policy: decides about each step.
        writer: the target.
    """
    if policy.reads_target or policy.asks_target or policy.compares:
        yield Await(RemoteReader(writer).check(policy))
    yield from stepwise(sequence, policy, EndpointTarget(writer))


@dataclass(frozen=True)
class EndpointTarget(TargetSide):
    """A remote target, which is asked for the steps that are rejected, and about candidates.

    The answer is kept in the draft's tokens.

    Attributes:
        writer: asks the target to continue this request's text.
    """

    writer: RemoteWriter

    def offer(self, sequence: TokenSequence, written: list[Candidate]) -> list[Candidate]:
        """The candidates that end with a whole character; all where there are none."""
        return super().offer(sequence, [c for c in written if self._is_whole(c)]) or written

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a candidate is rejected whatever the policy decides; None if it is not."""
        return super().refusal(candidate) if self._is_whole(candidate) else CUT

    def _is_whole(self, candidate: Candidate) -> bool:
        return is_whole(candidate.sequence, self.writer.codec)

    def read(
        self, sequence: TokenSequence, candidate: Candidate
    ) -> Generator[Operation, Any, Acceptance]:
        """Ask how probable a candidate is.

        What the target would have written itself is accepted, where that can be told.

        Raises:
            UnreadableStep: the target does not say.
        """
        tokens = candidate.tokens
        reading = yield from self._reading(sequence, sequence, tokens)
        sampling, accepted = sequence.sampling, 0
        certain = sampling.greedy and not sampling.counts_answer
        if certain and self.writer.client.abilities.takes_ids:
            accepted = next((i for i, m in enumerate(reading.margins) if m <= 0), len(tokens))
        reasons = [ACCEPTED] * accepted
        return Acceptance(tokens, accepted, None, reasons, reading=reading)

    def _reading(
        self, sequence: TokenSequence, charged: TokenSequence, step: list[int]
    ) -> Generator[Operation, Any, Reading]:
        """Ask how probable a step is that follows a sequence; another one may be charged."""
        found: tuple[Reading | None, Cost]
        found = yield Await(RemoteReader(self.writer).read(sequence, step))
        reading, cost = found
        cost.charge(charged)
        if reading is None:
            raise UnreadableStep(UNREAD)
        return reading

    def charge_reading(self, sequence: TokenSequence, acceptance: Acceptance) -> None:
        """Count nothing: `read` has counted it."""

    def ask(
        self,
        sequence: TokenSequence,
        candidates: Sequence[Candidate],
        question: str,
        answers: Sequence[str],
    ) -> Generator[Operation, Any, list[list[float]]]:
        """Put a question to the target behind each candidate, one request for each.

        Raises:
            UnreadableStep: none of the answers is known.
        """
        reader = RemoteReader(self.writer)
        asked = (reader.ask(sequence, c.tokens, question, answers) for c in candidates)
        found: list[tuple[list[float] | None, Cost]] = yield Await(together(asked))
        values: list[list[float]] = []
        for logprobs, cost in found:
            cost.charge(sequence)
            if logprobs is not None:
                values.append(logprobs)
        if len(values) < len(found):
            raise UnreadableStep(UNANSWERED)
        return values

    def write(self, sequence: TokenSequence, fork: TokenSequence, task: Rewrite) -> Writing:
        """Ask the target for a step, and put it on a fork; its tokens are as the server counts.

        Of a rejected candidate that it has read, what it would write itself is not asked for again.
        """
        policy = task.policy
        text = self.writer.so_far(sequence)
        most = min(policy.step_tokens, fork.remaining)
        begun = self._begin(sequence, fork, task.opening)
        given = len(fork.answer)
        if fork.finished or given >= most or (begun and task.ends(begun.text) is not None):
            return Candidate(fork, fork.text()), given
        stops = _strings(policy.delimiter)
        # The request's own, too: some are seen by the server alone, such as special tokens.
        asked = fork.limits.stop_strings[: _MOST_STOPS - len(stops)]
        ends = _either(task.ends, _first_of(asked))
        logprobs = fork.limits.probabilities or fork.limits.target_probabilities
        written: RemoteText = yield Await(
            self.writer.write(
                text,
                ends,
                (*stops, *asked),
                most - given,
                fork.sampling,
                logprobs=logprobs,
                begun=begun,
            )
        )
        self.writer.take(fork, written)
        if task.rival is not None and any(of.p_target is None for of in fork.emitted):
            # The server did not say, or cut its text otherwise than the draft does.
            with suppress(UnreadableStep):  # then the target's step stands
                reading = yield from self._reading(sequence, fork, fork.answer)
                for record, logprob in zip(fork.emitted, reading.logprobs, strict=True):
                    record.p_target = math.exp(logprob)
        count = len(fork.answer) if written.tokens is None else given + written.tokens
        return Candidate(fork, fork.text()), count

    def _begin(
        self, sequence: TokenSequence, fork: TokenSequence, opening: Opening | None
    ) -> Begun | None:
        """Put on a fork what the target has accepted of a rejected candidate; None for nothing."""
        acceptance = None if opening is None else opening.acceptance
        if acceptance is None or acceptance.reading is None:
            return None
        tokens, text = acceptance.drafted[: acceptance.accepted], None
        start = len(sequence.tokens)
        while tokens:
            text = self.writer.codec.text_after([*sequence.tokens, *tokens], start)
            if text is not None:
                break
            del tokens[-1]  # it ends inside a character
        if not tokens or text is None:
            return None
        append(fork, tokens, "draft", ACCEPTED)
        if fork.limits.probabilities or fork.limits.target_probabilities:
            for record, logprob in zip(fork.emitted, acceptance.reading.logprobs, strict=False):
                record.p_target = math.exp(logprob)
        return Begun(text, [*sequence.tokens, *tokens])


def remote_autoregressive(sequence: TokenSequence, target: RemoteWriter) -> Program:
    """The remote target writes the whole answer."""
    stops = sequence.limits.stop_strings
    ends = _first_of(stops)
    asked = stops if len(stops) <= _MOST_STOPS else ()
    while not sequence.finished:
        before = len(sequence.tokens)
        text = target.so_far(sequence)
        most = sequence.remaining
        logprobs = sequence.limits.probabilities
        written = yield Await(
            target.write(text, ends, asked, most, sequence.sampling, logprobs=logprobs)
        )
        target.take(sequence, written)
        if len(sequence.tokens) == before:
            sequence.close("length")


def _strings(delimiter: Delimiter) -> tuple[str, ...]:
    """The texts that a server can be asked to stop at; none where it cannot tell the end."""
    if isinstance(delimiter, str):
        return () if delimiter == SENTENCE else (delimiter,)
    if isinstance(delimiter, tuple) and len(delimiter) <= _MOST_STOPS:
        return delimiter
    return ()


def _either(one: Ends, other: Ends) -> Ends:
    """Combine two rules for the end of a text: whichever ends first."""

    def find(text: str) -> int | None:
        return min((at for ends in (one, other) if (at := ends(text)) is not None), default=None)

    return find


def _first_of(stops: tuple[str, ...]) -> Ends:
    """Make a rule that ends a text after the first stop string."""

    def find(text: str) -> int | None:
        return min((at + len(s) for s in stops if (at := text.find(s)) >= 0), default=None)

    return find
