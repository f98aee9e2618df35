"""One sequence, and the candidates that continue it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from stet.core.row import Role as Role
from stet.core.sampling import SamplingParams
from stet.core.written import WrittenSequence


class TokenSequence(WrittenSequence):
    """A prompt and the answer that grows after it.

    The token list only grows, except where a program cuts it back itself; the caches follow
    by lowering how much of them is valid, so nothing is ever computed twice.
    """

    _forks = 0

    @contextmanager
    def fork(
        self, count: int, sampling: SamplingParams | None = None, *, bounded: bool = True
    ) -> Generator[list[Self]]:
        """Candidates that continue this sequence, each with randomness of its own.

        They share what both caches hold of this sequence: several are given copies of it, a single
        one takes this sequence's place in the caches for as long as it lives. Leaving the context
        frees what was not adopted.

        Args:
            count: how many.
            sampling: how they choose tokens; None: as this sequence. Seeds are given anyway.
            bounded: whether this sequence's limit and stop strings end them, too. Otherwise only
                the end of the room does, and both cut what is adopted: a decision about a whole
                step must not depend on where it will be cut.
        """
        children = [self._make_child(i, sampling or self.sampling) for i in range(count)]
        if not bounded:
            for child in children:
                child.limits = replace(
                    child.limits, max_new_tokens=self.room, stop_strings=(), stream=False
                )
                child.stream = None
        for child in children:
            child.only_child = count == 1
        self._forks += 1
        self.others += children
        try:
            yield children
        finally:
            for child in children:
                child.give_back()
                child.release(child)
                self.others.remove(child)

    @contextmanager
    def side_query(self, tokens: Sequence[int]) -> Generator[Self]:
        """Ask the target about this text: make a copy in which a question follows it.

        A final stop token is left out of the copy. What the target's cache reads of the text stays
        valid, what it reads of the question does not; passes are charged to this sequence.

        Args:
            tokens: the tokens of the question.
        """
        child = self._make_child(0, self.sampling)
        child.only_child = True
        if child.tokens[-1] in self.limits.stop_token_ids:
            del child.tokens[-1]
            child.prompt_length -= 1
        child.tokens += tokens
        self.others.append(child)
        try:
            yield child
        finally:
            child.give_back()
            child.release(child)
            self.others.remove(child)
            self.charge(child)

    def _make_child(self, index: int, sampling: SamplingParams) -> Self:
        # Any injective mix does: the seed goes through a hash before it is used.
        seed = hash((self.sampling.seed, self.round, self._forks, index))
        limits = replace(self.limits, max_new_tokens=self.remaining, room=self.room)
        child = type(self)(self.tokens, replace(sampling, seed=seed), limits, self.decoder)
        child.parent = self
        child.answer_start = self.answer_start
        child.release = self.release
        child.history = replace(self.history)
        return child

    def adopt(self, child: Self, *, scored: bool = False) -> None:
        """Continue with what a candidate wrote, as far as limits allow, and with its caches.

        Args:
            child: one of this sequence's forks.
            scored: the target's cache of this sequence has read the candidate's tokens already.
        """
        self._cut(child)
        written = child.answer
        # A cache that is not replaced by the candidate's may have read ahead other text.
        self.rewind(len(self.tokens), target=len(self.tokens) + len(written) if scored else None)
        self.tokens += written
        self.emitted += child.emitted
        for block in child.blocks:
            shift = child.prompt_length - self.prompt_length
            self.blocks.append(replace(block, position=block.position + shift))
        self.counters.add(child.counters)
        self.finish_reason = child.finish_reason
        self.history = child.history
        self.round += 1
        for role in tuple(child.rows):
            self.take_cache(child, role)

    def _cut(self, child: Self) -> None:
        """Cut a candidate where this sequence ends, which the candidate may not know.

        A stop string may also begin before the candidate, which then cannot see it.
        """
        answer, left = child.answer, self.remaining
        if self.stream is not None:
            for count, token in enumerate(answer[:left], 1):
                if token not in self.limits.stop_token_ids and self.stream.push(token):
                    child.truncate(count)
                    child.finish_reason = "stop"
                    return
        if len(answer) > left:
            child.truncate(left)
            child.finish_reason = "length"
        elif len(answer) == left:
            child.close("length")
