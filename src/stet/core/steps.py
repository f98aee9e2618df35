"""Where a step of reasoning ends, found in text that arrives token by token."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from stet.core.errors import OptionError
from stet.core.streaming import Decoder, TextStream

SENTENCE = "sentence"
"""The delimiter for which steps are sentences."""

Ends = Callable[[str], int | None]
"""A function that finds where the first step of a text ends, as an index into it, or None.

It is called with a text that grows, from the step's first character on; it returns None where the
step is not complete yet.
"""

Delimiter = str | tuple[str, ...] | Ends
"""What ends steps: a text, several texts of which the first found counts, `SENTENCE`, or `Ends`."""

_SENTENCE_END = re.compile(r"[.!?][\"'”’»)\]]*(?=\s)|[。！？]")


def ends_of(delimiter: Delimiter) -> Ends:
    """The function that finds the end of a step for a delimiter.

    A delimiter counts once the step holds something before it, so that leading blank lines belong
    to the step that follows them.

    Raises:
        OptionError: the delimiter is empty, or not a text.
    """
    if callable(delimiter):
        return delimiter
    if delimiter == SENTENCE:
        return _sentence_end
    strings: Any = (delimiter,) if isinstance(delimiter, str) else delimiter
    if not isinstance(strings, tuple) or not all(isinstance(s, str) for s in strings):
        raise OptionError(f"The step delimiter is {delimiter!r}; give a text, or several.")
    if not strings or not all(strings):
        raise OptionError("A step delimiter is empty; give a text such as '\\n\\n'.")
    return _after_any(strings)


@lru_cache(maxsize=64)
def _after_any(strings: tuple[str, ...]) -> Ends:
    leading = re.compile(rf"(?:{'|'.join(map(re.escape, strings))}|\s)*")

    def find(text: str) -> int | None:
        lead = leading.match(text)
        begin = lead.end() if lead else 0
        found = [at + len(s) for s in strings if (at := text.find(s, begin)) >= 0]
        return min(found, default=None)

    return find


def _sentence_end(text: str) -> int | None:
    # The white space after it shows that a full stop is no decimal point.
    begin = len(text) - len(text.lstrip())
    found = _SENTENCE_END.search(text, begin)
    return None if found is None else found.end()


class StepReader:
    """Reads the tokens of one step until it is complete.

    A step ends with the token that completes it: where a delimiter and what follows it are one
    token, the token belongs to the step before.

    Args:
        decoder: usually a transformers tokenizer.
        ends: finds where a step ends.
        limit: the most tokens of a step.

    Attributes:
        length: tokens of the step once it is complete; None before.
    """

    def __init__(self, decoder: Decoder, ends: Ends, limit: int) -> None:
        self._ends = ends
        self._limit = limit
        self._stream = TextStream(decoder)
        self._reached: list[int] = []
        self.length: int | None = None

    @property
    def count(self) -> int:
        """Number of tokens read."""
        return len(self._reached)

    def __copy__(self) -> StepReader:
        """Copy the reader at its place, to look ahead with."""
        other = object.__new__(StepReader)
        other.__dict__ |= self.__dict__ | {
            "_stream": copy(self._stream),
            "_reached": list(self._reached),
        }
        return other

    def push(self, token: int) -> bool:
        """Read the next token; return whether the step is complete."""
        if self.length is not None:
            return True
        known = len(self._stream.text)
        self._stream.push(token)
        self._reached.append(len(self._stream.text))
        if len(self._stream.text) > known and (end := self._ends(self._stream.text)) is not None:
            self.length = 1 + sum(at < end for at in self._reached[:-1])
        elif len(self._reached) >= self._limit:
            self.length = len(self._reached)
        return self.length is not None

    def read(self, tokens: Sequence[int]) -> int | None:
        """Read the tokens after those read so far; return the step's length once it is complete.

        Args:
            tokens: all tokens since the step began.
        """
        for token in tokens[len(self._reached) :]:
            if self.push(token):
                break
        return self.length


def normalise(text: str) -> str:
    """Normalise a step's text for comparison: case and white space do not count."""
    return " ".join(text.lower().split())


LOOP = 16
"""How many equal steps in a row are a loop, by default: tables and code repeat some lines, too."""


@dataclass(slots=True)
class LoopGuard:
    """Detects a draft that repeats itself in a loop.

    Only steps of the draft count. Where the target repeats itself its text is left as it is, since
    it would have written the same alone.

    Attributes:
        repeats: how many repetitions of the same step, or of the same few steps, in a row are a
            loop; 0 for never.
        longest: the most steps that are repeated together.
    """

    repeats: int = LOOP
    longest: int = 3
    _texts: list[str] = field(default_factory=list[str], init=False)

    def push(self, text: str, *, drafted: bool = True) -> bool:
        """Add a step; return whether the answer is in a loop now.

        Args:
            text: the step.
            drafted: whether the draft wrote the step.
        """
        if not (drafted and self.repeats):
            self._texts.clear()
            return False
        self._texts.append(normalise(text))
        return any(self._repeats_every(period) for period in range(1, self.longest + 1))

    def _repeats_every(self, period: int) -> bool:
        end = self._texts[-period:]
        # Lines of signs alone, such as closing brackets, may well follow each other.
        spoken = any(c.isalnum() for text in end for c in text) or not any(end)
        times = self.repeats if spoken else 4 * self.repeats
        last = self._texts[-period * times :]
        return len(last) == period * times and last == end * times
