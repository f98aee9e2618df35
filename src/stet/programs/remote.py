"""Remote decoding: the target is sent text, and answers with text."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from stet.core.acceptance import Acceptance
from stet.core.errors import StetError
from stet.core.operations import Await, Operation, Program
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate
from stet.core.steps import SENTENCE, Delimiter, Ends
from stet.programs.parts import is_whole
from stet.programs.remote_writer import RemoteText, RemoteWriter
from stet.programs.target_side import Rewrite, TargetSide, Writing

CUT = "step ends inside a character"
"""Why the target writes a step that the policy would have accepted: a part of a character cannot be
sent."""

_MOST_STOPS = 4
"""Stop strings that an endpoint takes."""


@dataclass(frozen=True)
class EndpointTarget(TargetSide):
    """A remote target, which is asked for the steps that are rejected and reads no candidates.

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
        """Refuse to read a candidate, which a remote target cannot do.

        Raises:
            StetError: always.
        """
        del sequence, candidate
        raise StetError("This policy has the target read steps, which a remote target cannot.")

    def write(self, sequence: TokenSequence, fork: TokenSequence, task: Rewrite) -> Writing:
        """Ask the target for a step, and put it on a fork; its tokens are as the server counts.

        A remote target cannot begin with a rejected candidate.
        """
        policy = task.policy
        text = self.writer.so_far(sequence)
        most = min(policy.step_tokens, fork.remaining)
        stops = _strings(policy.delimiter)
        # The request's own, too: some are seen by the server alone, such as special tokens.
        asked = fork.limits.stop_strings[: _MOST_STOPS - len(stops)]
        ends = _either(task.ends, _first_of(asked))
        written: RemoteText = yield Await(
            self.writer.write(text, ends, (*stops, *asked), most, fork.sampling)
        )
        self.writer.take(fork, written)
        count = len(fork.answer) if written.tokens is None else written.tokens
        return Candidate(fork, fork.text()), count


def remote_autoregressive(sequence: TokenSequence, target: RemoteWriter) -> Program:
    """The remote target writes the whole answer."""
    stops = sequence.limits.stop_strings
    ends = _first_of(stops)
    asked = stops if len(stops) <= _MOST_STOPS else ()
    while not sequence.finished:
        before = len(sequence.tokens)
        text = target.so_far(sequence)
        most = sequence.remaining
        written = yield Await(target.write(text, ends, asked, most, sequence.sampling))
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
