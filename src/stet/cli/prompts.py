"""Prompts from files and from stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from stet.core.errors import FileError, OptionError
from stet.core.reading import decode, json_of, lines_of

LONGEST_PROMPT = 2**24
"""The most bytes of a prompt that are read."""


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file: one per line, or JSON lines with a `prompt`.

    Raises:
        OptionError: where the file cannot be read or a line has no prompt.
    """
    try:
        return [*_iterate_prompts(file)]
    except FileError as error:
        raise OptionError(str(error)) from error


def read_stdin() -> str:
    """Read the one prompt on stdin, without its last line end.

    Raises:
        OptionError: stdin is closed, or not UTF-8 text.
    """
    if sys.stdin is None:
        raise OptionError("There is no prompt, and stdin is closed.")
    # As bytes: the terminal's settings must not change what a prompt says.
    try:
        content = sys.stdin.buffer.read(LONGEST_PROMPT + 1)
        text = decode(content, "The prompt on stdin")
    except OSError as error:
        raise OptionError(f"stdin cannot be read ({error.strerror or error}).") from error
    except FileError as error:
        raise OptionError(str(error)) from error
    if len(content) > LONGEST_PROMPT:
        raise OptionError(f"The prompt on stdin is longer than {LONGEST_PROMPT // 2**20} MiB.")
    return text.replace("\r\n", "\n").removesuffix("\n")


def _iterate_prompts(file: Path) -> Iterator[str]:
    # The file's name decides, so that a prompt may begin with a brace.
    is_jsonl = file.suffix in {".jsonl", ".ndjson", ".json"}
    count = 0
    for number, line in lines_of(file, LONGEST_PROMPT):
        if line.strip():
            count += 1
            yield _read_record(line, f"{file}, line {number}") if is_jsonl else line
    if not count:
        raise OptionError(f"{file} holds no prompts.")


def _read_record(line: str, where: str) -> str:
    record = json_of(line, where)
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise OptionError(f'{where}: no text under "prompt".')
    return prompt
