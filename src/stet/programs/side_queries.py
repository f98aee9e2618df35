"""Questions that a local target is asked behind the candidates of a step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from stet.core.block import EMPTY
from stet.core.operations import Join, Operation, Score
from stet.core.questions import Question, tokenize_question
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate


def ask_each(
    sequence: TokenSequence, candidates: Sequence[Candidate], question: str, answers: Sequence[str]
) -> Generator[Operation, Any, list[list[float]]]:
    """Put a question to the target behind each candidate; see `Step.ask`.

    Args:
        sequence: the answer so far.
        candidates: the candidates of the next step.
        question: the question.
        answers: what it may be answered with.

    Raises:
        OptionError: an answer is not one token of the target's.
    """
    tokenizer: Any = sequence.decoder
    asked = tokenize_question(tokenizer, question, tuple(answers))
    if any(c.translated is not None for c in candidates):
        # They are not in the target's cache, so each is asked about in turn after the text so far.
        turns: list[list[float]] = []
        for candidate in candidates:
            turns.append((yield from _ask(sequence, asked, candidate.target_tokens)))
        return turns
    found: list[list[float]] = yield Join([_ask(c.sequence, asked) for c in candidates])
    return found


def _ask(
    text: TokenSequence, asked: Question, candidate: Sequence[int] = ()
) -> Generator[Operation, Any, list[float]]:
    """Log-probabilities of the answers behind a candidate.

    Args:
        text: the text up to the candidate's end; without it where `candidate` is given.
        asked: the question.
        candidate: the candidate in the target's tokens, where `text` does not contain it.
    """
    ended = bool(candidate) and candidate[-1] in text.limits.stop_token_ids
    said = candidate[:-1] if ended else candidate
    with text.side_query((*said, *asked.tokens)) as sequence:
        logprobs: list[float] = yield Score(sequence, EMPTY, None, choices=asked.answers)
    return logprobs
