"""Plain decoding by one model, for baselines."""

from __future__ import annotations

from collections.abc import Callable

from stet.core.block import EMPTY
from stet.core.operations import Draft, Program, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence
from stet.programs.speculative import never


def autoregressive(
    sequence: TokenSequence, policy: TokenPolicy, ended: Callable[[TokenSequence], bool] = never
) -> Program:
    """The target writes one token per pass; blocks are empty, so nothing can be rejected."""
    while not (sequence.finished or ended(sequence)):
        sequence.commit((yield Score(sequence, EMPTY, policy)))


def drafting(sequence: TokenSequence) -> Program:
    """The draft writes the whole answer, without verification."""
    while not sequence.finished:
        count = min(sequence.limits.chunk, sequence.remaining)
        sequence.commit((yield Draft(sequence, count)))
