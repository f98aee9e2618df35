"""Cross-tokenizer decoding: a local target with a tokenizer of its own, and the text of both."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from stet.core.draft_length import LONGEST
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate
from stet.policies.exact import Exact
from stet.programs.autoregressive import autoregressive
from stet.programs.parts import append, is_whole, read_step
from stet.programs.target_side import Rewrite, TargetSide, Writing, open_step
from stet.text.codec import Codec

UNTRANSLATABLE = "step cannot be said in the target's tokens"
"""Why the target writes a step that the policy was never shown."""

UNREADABLE = "; the draft cannot read it, so the target writes on alone"
"""Added to the reason of a step after which the draft is not asked again."""


@dataclass(eq=False)
class CrossTokenizerTarget(TargetSide):
    """A target whose tokenizer differs from the draft's, with the answer in the draft's tokens.

    The draft writes candidates in its own tokens. What is accepted is put into the target's, what
    the target writes into the draft's: both lists only grow, at the end of every step they read
    alike, and neither model reads a token twice. The target writes without blocks of the draft's,
    but for the rejected candidate, with which it begins.

    Attributes:
        drafted: prompt and answer in the draft's tokens; at first nothing is written.
        draft: converts between text and the draft's tokens.
        target: converts between text and the target's tokens.
        end: the target's token for the end of an answer; None where nothing ends one.
    """

    drafted: TokenSequence
    draft: Codec
    target: Codec
    end: int | None = None

    @contextmanager
    def attach(self, sequence: TokenSequence) -> Generator[None]:
        """Free the draft's rows, which its own sequence holds, as those of the answer are freed."""
        self.drafted.release = sequence.release
        sequence.others.append(self.drafted)
        try:
            yield
        finally:
            self.drafted.release(self.drafted)
            sequence.others.remove(self.drafted)

    def follow(self, sequence: TokenSequence, start: int | None) -> bool:
        """Put what the target wrote into the draft's tokens; False if the draft cannot go on."""
        if start is not None and not self._take_over(sequence, start):
            sequence.steps[-1].reason += UNREADABLE
            return False
        if self.drafted.finished:  # it has no room for more of the draft's tokens
            sequence.close("length")
            return False
        return True

    def _take_over(self, sequence: TokenSequence, start: int) -> bool:
        """Take over the answer's tokens from `start` on; False if the draft cannot read them.

        Args:
            sequence: the answer, in the target's tokens.
            start: a place in them up to which both lists read alike.
        """
        text = self.target.text_after(sequence.tokens, start)
        tokens = None if text is None else self.draft.tokens_after(self.drafted.tokens, text)
        if tokens is None:
            return False
        # A stop token of the draft does not end the answer where the target went on.
        append(self.drafted, tokens, "target", "", ending=False)
        return True

    def draft_sequence(self, sequence: TokenSequence) -> TokenSequence:
        """The answer in the draft's tokens."""
        del sequence
        return self.drafted

    def offer(self, sequence: TokenSequence, written: list[Candidate]) -> list[Candidate]:
        """The candidates that can be written in the target's tokens."""
        for candidate in written:
            sequence.charge(candidate.sequence)
            self._translate(sequence, candidate)
        return super().offer(sequence, [c for c in written if c.translated is not None])

    def _translate(self, sequence: TokenSequence, candidate: Candidate) -> None:
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

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a candidate is rejected whatever the policy decides; None if it is not."""
        return UNTRANSLATABLE if candidate.translated is None else super().refusal(candidate)

    def discard(self, sequence: TokenSequence, candidate: Candidate) -> None:
        """Count nothing: `offer` has counted every candidate."""

    def adopt(
        self, sequence: TokenSequence, candidate: Candidate, reason: str, *, scored: bool
    ) -> None:
        """Continue both lists with an accepted candidate, each in its own tokens."""
        self.drafted.adopt(candidate.sequence)
        append(sequence, candidate.target_tokens, "draft", reason, scored=scored)
        if candidate.sequence.finish_reason == "stop":
            sequence.close("stop")

    def write(self, sequence: TokenSequence, fork: TokenSequence, task: Rewrite) -> Writing:
        """The target writes a step on a fork, token by token.

        The rejected candidate is verified as one block, before the target goes on by itself. Its
        tokens are fixed, so they leave the target's distribution as it is.
        """
        if (opening := task.opening) is not None:
            first = (opening.candidate.translated or [])[: min(LONGEST, fork.room - 1)]
            yield from open_step(sequence, fork, opening, first)
        reader = read_step(fork, task.policy, task.ends)
        yield from autoregressive(fork, Exact(), lambda f: reader.read(f.answer) is not None)
        if (length := reader.read(fork.answer)) is not None:
            fork.truncate(length)
        # The draft is given the step as text, so it ends with a whole character.
        yield from autoregressive(fork, Exact(), lambda f: is_whole(f, self.target))
        return Candidate(fork, fork.text()), len(fork.answer)
