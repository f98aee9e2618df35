"""A prompt and the answer after it: its tokens, where each came from, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from math import exp

from stet.core.acceptance import ACCEPTED_MISMATCH, DRAFTED, Acceptance
from stet.core.block import Block
from stet.core.emitted import Emitted
from stet.core.limits import Limits
from stet.core.row import Places
from stet.core.sampling import SamplingParams
from stet.core.streaming import Decoder, TextStream
from stet.core.trace import BlockRecord, Counters, FinishReason, Origin, StepRecord


class WrittenSequence(Places):
    """A sequence by itself: the part of `stet.core.sequence.TokenSequence` without candidates.

    Args:
        prompt: the prompt's tokens, at least one.
        sampling: how tokens are chosen.
        limits: when it ends, and how far ahead it drafts.
        decoder: turns tokens into text; needed for stop strings and streaming alone.
    """

    def __init__(
        self,
        prompt: list[int],
        sampling: SamplingParams | None = None,
        limits: Limits | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        super().__init__()
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        # Of a candidate, where the answer began that it continues.
        self.answer_start = len(prompt)
        self.sampling = sampling or SamplingParams()
        self.limits = limits or Limits()
        self.decoder = decoder
        self.emitted: list[Emitted] = []
        self.blocks: list[BlockRecord] = []
        self.counters = Counters()
        rule, longest = self.limits.draft_length, self.limits.max_new_tokens
        self.history = rule.begin(len(prompt), longest)
        self.round = 0
        self.finish_reason: FinishReason | None = None
        self.steps: list[StepRecord] = []
        # Tokens of the prompt that the target's cache held already.
        self.reused = 0
        self.stream = self._new_stream()

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self.finish_reason is not None

    @property
    def answer(self) -> list[int]:
        """The emitted tokens."""
        return self.tokens[self.prompt_length :]

    @property
    def counted(self) -> list[int]:
        """The tokens of the whole answer that this is a part of, where penalties count them."""
        return self.tokens[self.answer_start :] if self.sampling.counts_answer else []

    @property
    def origins(self) -> list[Origin]:
        """The model that wrote each emitted token."""
        return [record.origin for record in self.emitted]

    @property
    def reasons(self) -> list[str]:
        """Why each token was emitted."""
        return [record.reason for record in self.emitted]

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self.prompt_length + self.limits.max_new_tokens - len(self.tokens)

    @property
    def room(self) -> int:
        """Tokens that have a place behind the present ones, whether they may be emitted or not."""
        most = max(self.limits.max_new_tokens, self.limits.room or 0)
        return self.prompt_length + most - len(self.tokens)

    def block_size(self, *, bonus: bool = True, beyond: bool = False) -> int:
        """Tokens to draft for the next block.

        Args:
            bonus: a bonus token follows a whole block at once; leave room for it.
            beyond: the block may reach beyond what may still be emitted, as far as there is room.
        """
        left = self.room if beyond else self.remaining
        size = self.limits.draft_length.next_block(self.history)
        # A policy without a bonus token adds nothing to an empty block.
        return min(max(size, 1 - bonus), left - bonus)

    def floor(self) -> float:
        """The confidence in a block at which drafting ends; 0 for never."""
        return self.limits.draft_length.floor(self.history)

    def commit(self, item: Acceptance | Block) -> None:
        """Append the tokens of a decision, or of a block that need not be verified."""
        if isinstance(item, Acceptance):
            self._commit_acceptance(item)
        else:
            self._commit_block(item)
        self.round += 1

    def _commit_acceptance(self, acceptance: Acceptance) -> None:
        start = len(self.tokens)
        drafted, accepted = acceptance.drafted, acceptance.accepted
        tokens = drafted[:accepted]
        origins: list[Origin] = ["draft"] * accepted
        if acceptance.next_token is not None:
            tokens.append(acceptance.next_token)
            origins.append("target")
        emitted = self._emit(tokens, origins, acceptance.reasons)
        self._record(emitted, acceptance.p_target, acceptance.p_draft, acceptance.top_logprobs)
        # Both caches hold the drafted tokens; they are valid as far as these were emitted.
        self.rewind(start + min(accepted, emitted))

        counters = self.counters
        counters.target_passes += 1
        counters.target_seconds += acceptance.target_seconds
        counters.draft_seconds += acceptance.draft_seconds
        counters.draft_passes += acceptance.draft_passes
        accepted_mismatches = [
            i for i in range(accepted) if acceptance.reasons[i] == ACCEPTED_MISMATCH
        ]
        rule = self.limits.draft_length
        rule.update(self.history, len(drafted), accepted, len(accepted_mismatches))
        if drafted:
            counted = min(accepted, emitted)
            counters.drafts += 1
            counters.drafted_tokens += len(drafted)
            counters.accepted_tokens += counted
            counters.count_accepted([1] * counted)
            self.blocks.append(
                BlockRecord(
                    position=start - self.prompt_length,
                    drafted=drafted,
                    accepted=accepted,
                    accepted_mismatches=accepted_mismatches,
                    # Behind the end of the answer it is not emitted.
                    next_token=acceptance.next_token if emitted > accepted else None,
                    mismatches=acceptance.mismatches,
                )
            )

    def _commit_block(self, block: Block) -> None:
        start = len(self.tokens)
        tokens = block.tokens
        emitted = self._emit(tokens, ["draft"] * len(tokens), [DRAFTED] * len(tokens))
        logprobs = block.logprobs if self.limits.probabilities else None
        self._record(emitted, None, logprobs and [exp(p) for p in logprobs], None)
        self.rewind(start + emitted)
        self.counters.draft_passes += block.length
        self.counters.draft_seconds += block.seconds

    def _emit(self, tokens: list[int], origins: list[Origin], reasons: list[str]) -> int:
        """Append tokens up to the first that ends the answer; return how many."""
        count = min(len(tokens), self.remaining)
        ended: FinishReason | None = "length" if len(tokens) >= self.remaining else None
        stops = self.limits.stop_token_ids
        for i in range(count):
            is_stop_token = tokens[i] in stops
            if is_stop_token or (self.stream is not None and self.stream.push(tokens[i])):
                count, ended = i + 1, "stop"
                break
        self.tokens += tokens[:count]
        self.emitted += map(Emitted, origins[:count], reasons[:count])
        self.counters.emitted_tokens += count
        if ended is not None:
            self.finish_reason = ended
        return count

    def _record(
        self,
        count: int,
        p_target: list[float] | None,
        p_draft: Sequence[float | None] | None,
        top_logprobs: list[dict[int, float]] | None,
    ) -> None:
        """Record the probabilities of the last `count` tokens, as far as they are asked for."""
        records = self.emitted[len(self.emitted) - count :]
        if self.limits.probabilities or self.limits.target_probabilities:
            for record, target in zip(records, p_target or (), strict=False):
                record.p_target = target
        if self.limits.probabilities:
            for record, draft in zip(records, p_draft or (), strict=False):
                record.p_draft = draft
        if self.limits.top_logprobs:
            for record, top in zip(records, top_logprobs or (), strict=False):
                record.top_logprobs = top

    def truncate(self, length: int) -> None:
        """Cut the answer back to its first `length` tokens, as if the rest was never written.

        What it cost stays counted; accepted tokens are those that are still part of the answer.
        """
        end, before = self.prompt_length + length, len(self.answer)
        if end >= len(self.tokens):
            return
        del self.tokens[end:]
        del self.emitted[length:]
        self.counters.emitted_tokens = length
        for i, block in enumerate(self.blocks):
            left = max(length - block.position, 0)
            if left <= block.accepted:
                # In a block that ended the answer, tokens after the end were never counted.
                counted = min(block.accepted, before - block.position)
                self.counters.uncount_accepted(range(left, counted))
                self.blocks[i] = replace(
                    block,
                    accepted=left,
                    accepted_mismatches=[at for at in block.accepted_mismatches if at < left],
                    next_token=None,
                    mismatches=[d for d in block.mismatches if d.at < left],
                )
        self.finish_reason = None
        self.rewind(end)
        self.stream = self._new_stream()
        if self.stream is not None:
            for token in self.answer:
                self.stream.push(token)

    def explain(self, reason: str, origin: Origin | None = None) -> None:
        """Give every emitted token the same reason, and the same origin where one is given."""
        for record in self.emitted:
            record.reason = reason
            record.origin = origin or record.origin

    def charge_pass(self, seconds: float) -> None:
        """Count a pass of the target that led to no decision."""
        self.counters.target_passes += 1
        self.counters.target_seconds += seconds

    def charge(self, other: WrittenSequence) -> None:
        """Count the passes and seconds of a candidate that was not adopted."""
        mine, theirs = self.counters, other.counters
        mine.target_passes += theirs.target_passes
        mine.draft_passes += theirs.draft_passes
        mine.target_seconds += theirs.target_seconds
        mine.draft_seconds += theirs.draft_seconds
        mine.target_requests += theirs.target_requests
        mine.target_read_tokens += theirs.target_read_tokens
        mine.target_read_seconds += theirs.target_read_seconds

    def close(self, reason: FinishReason) -> None:
        """End the sequence for an external reason, unless it has ended already."""
        if self.finish_reason is None:
            self.finish_reason = reason

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer; None where none did."""
        if self.stream is None:
            return None
        whole = copy(self.stream)
        whole.finish()
        return whole.met

    def text(self) -> str:
        """The answer as text, without the stop token or stop string that ended it."""
        if self.stream is not None and self.limits.stop_strings:
            whole = copy(self.stream)
            whole.finish()
            return whole.text
        tokens = self.answer
        if tokens and tokens[-1] in self.limits.stop_token_ids:
            tokens = tokens[:-1]
        return "" if self.decoder is None else self.decoder.decode(tokens, skip_special_tokens=True)

    def _new_stream(self) -> TextStream | None:
        if self.decoder is None or not (self.limits.stop_strings or self.limits.stream):
            return None
        return TextStream(self.decoder, self.limits.stop_strings, self.limits.special)
