"""Questions that are put to the target behind a text, and answered with one token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stet.core.errors import OptionError


@dataclass(frozen=True, slots=True)
class Question:
    """A question as tokens.

    Attributes:
        tokens: the question's tokens.
        answers: the token of each answer, after the question.
    """

    tokens: tuple[int, ...]
    answers: tuple[int, ...]


@lru_cache(maxsize=16)
def tokenize_question(tokenizer: Any, question: str, answers: tuple[str, ...]) -> Question:
    """Tokenize a question with each of its answers after it.

    Args:
        tokenizer: the target's.
        question: the question; may contain special tokens.
        answers: the texts that may follow it.

    Raises:
        OptionError: an answer after the question is not a single token of its own.
    """
    written = [tuple(tokenizer.encode(question + a, add_special_tokens=False)) for a in answers]
    tokens, found = written[0][:-1], tuple(answer[-1] for answer in written)
    if any(answer[:-1] != tokens for answer in written) or len(set(found)) < len(answers):
        raise OptionError(
            f"This tokenizer does not write an answer ({', '.join(answers)}) after the question as "
            "one token of its own; end the question differently, for example with a line break."
        )
    return Question(tokens, found)
