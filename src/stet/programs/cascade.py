"""Cascade: the draft's whole answer, or else the target's."""

from __future__ import annotations

from stet.core.needs import Need
from stet.core.operations import Draft, Program
from stet.core.policy import AnswerPolicy, TokenPolicy
from stet.core.sequence import TokenSequence
from stet.programs.speculative import speculative


def cascade(sequence: TokenSequence, policy: AnswerPolicy, inner: TokenPolicy) -> Program:
    """The draft answers alone; where the policy rejects its answer, the target answers.

    The target then writes with block speculation under `inner`.
    """
    needs = frozenset({Need.DRAFT_LOGPROBS})
    with sequence.fork(1) as (attempt,):
        logprobs: list[float] = []
        while not attempt.finished:
            count = min(attempt.limits.chunk, attempt.remaining)
            block = yield Draft(attempt, count, needs=needs)
            logprobs += block.logprobs or []
            attempt.commit(block)
        # A block may run past the end of the answer.
        if policy.accepts_answer(logprobs[: len(attempt.answer)]):
            sequence.adopt(attempt)
        else:
            sequence.charge(attempt)
    yield from speculative(sequence, inner)
