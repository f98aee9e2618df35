"""The errors Stet raises: one sentence each that says what is wrong and what to do."""

from __future__ import annotations

from typing import Any


class StetError(Exception):
    """Base of every error that a user can cause or must act on.

    Attributes:
        result: where a request failed, what it had written until then: a `stet.Result`; of a text
            that could not be read, the `stet.TextReading` with this error.
    """

    result: Any = None


class LoadError(StetError):
    """A model could not be loaded: missing files, unreadable weights, an unknown name."""


class CompatibilityError(LoadError):
    """A model, or a pair of models, that Stet cannot run correctly."""


class TokenizerMismatch(CompatibilityError):
    """Two models whose tokenizers differ, where token ids must mean the same text."""


class CapacityError(StetError):
    """No room is left: all rows of a runner are taken, or a sequence is longer than its cache."""


class OptionError(StetError):
    """An option that is unknown or out of range."""


class LengthError(OptionError):
    """A prompt, or a prompt with its answer, that is longer than the pair can hold."""


class MemoryPlanError(LoadError):
    """The models and their caches do not fit into the memory of the device."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, fit for a sentence.

    It may quote what a file holds: what cannot be printed is escaped, and what is long is cut.
    """
    line = next(iter(str(error).strip().splitlines()), "").strip() or type(error).__name__
    return quoted(line.rstrip("."))


NAME = 60
"""Characters of a name of somebody else's that a sentence quotes."""


def quoted(text: str, most: int = 300) -> str:
    """A text of somebody else's, fit for a sentence: printable, and cut.

    Args:
        text: the text.
        most: its characters that are kept.
    """
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[:most]} ..."


class FileError(StetError):
    """A file that cannot be read or written, or whose content is not what it should be."""
