r"""Reading text files: lines, JSON and records.

A line ends at "\n" and nowhere else: JSON strings, and so records, may hold U+2028, form feeds and
whatever else `str.splitlines` ends a line at. Text is UTF-8. A last record that an interrupted
write left without its end is ignored, and its work is done again; anything else that cannot be read
is an error that names file and line.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stet.core.errors import FileError
from stet.core.parsing import first_problem

LONGEST = 2**28
"""The most bytes of a line; a longer one is an error."""

HALVES = re.compile("[\ud800-\udfff]")
"""Lone surrogates."""

# UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: its number in the file, from 1.
        text: the line without its end.
    """

    number: int
    text: str


def decode(content: bytes, where: str) -> str:
    """Decode bytes as text, without a byte order mark.

    Args:
        content: text in UTF-8.
        where: the file or line that they are from, for an error.

    Raises:
        FileError: they are not UTF-8 text.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            raise FileError(f"{where} cannot be read: it is {name} text; save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise FileError(
            f"{where} cannot be read: byte {error.start + 1} (0x{byte:02x}) is not UTF-8 text; "
            "save it as UTF-8."
        ) from error
    if "\0" in text:
        raise FileError(
            f"{where} cannot be read: it holds a NUL character, so it is not UTF-8 text."
        )
    return text


def lines_of(path: Path, longest: int = LONGEST) -> Iterator[Line]:
    r"""Read the lines of a text file of any origin, one by one.

    Line ends are "\n" and "\r\n"; the last line may be without one.

    Raises:
        FileError: the file cannot be read, or a line is not UTF-8 text or is too long.
    """
    for number, raw in _raw_lines(path, longest):
        text = decode(raw, f"{path}, line {number},")
        yield Line(number, text.removesuffix("\n").removesuffix("\r"))


def read_text(path: Path, longest: int = LONGEST) -> str:
    """Read the text of a file.

    Raises:
        FileError: it cannot be read, is not UTF-8 text or is too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(longest + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > longest:
        raise FileError(f"{path} is longer than {longest // 2**20} MiB.")
    return decode(content, str(path))


def json_of(text: str, where: str) -> Any:
    """Parse a text as JSON.

    Args:
        text: the text.
        where: the file or line that it is from, for an error.

    Raises:
        FileError: it is not JSON, or its strings hold lone surrogates.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise FileError(f"{where}: not JSON (nested too deeply).") from error
    except json.JSONDecodeError as error:
        raise FileError(f"{where}: not JSON ({error.msg}, character {error.pos + 1}).") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise FileError(f"{where}: not JSON ({error}).") from error
    if "\\u" in text and has_halves(json.dumps(value, ensure_ascii=False)):
        raise FileError(
            rf"{where}: holds half a character (a lone surrogate such as \ud800), which is no text."
        )
    return value


def json_lines(path: Path) -> list[Any]:
    """Parse the lines of a JSONL file; empty lines are skipped.

    Raises:
        FileError: naming the line that is not JSON.
    """
    lines = lines_of(path)
    return [json_of(text, f"{path}, line {number}") for number, text in lines if text.strip()]


def read_records(
    path: Path, adapter: Any, kind: str, upgrade: Callable[[Any], Any] | None = None
) -> Iterator[Any]:
    """Read the records of a JSONL file, one by one; a last one without its end is left out.

    Args:
        path: the file.
        adapter: pydantic's `TypeAdapter` of a record.
        kind: what a record is called in an error, such as "an answer".
        upgrade: turns a record of an earlier release into one of this release.

    Raises:
        FileError: the file cannot be read, or a line is not such a record.
    """
    from pydantic import ValidationError

    for number, raw in _raw_lines(path, LONGEST):
        if not raw.strip():
            continue
        try:
            yield adapter.validate_json(raw if upgrade is None else _upgrade_line(upgrade, raw))
        except ValidationError as error:
            if not raw.endswith(b"\n"):
                return  # an interrupted write
            problem = first_problem(error, "the line")
            raise FileError(f"{path}, line {number}: not {kind} ({problem}).") from error


def _upgrade_line(upgrade: Callable[[Any], Any], raw: bytes) -> bytes:
    """Upgrade a line to this release; one that is not JSON is left as it is."""
    try:
        return json.dumps(upgrade(json.loads(raw))).encode()
    except ValueError:
        return raw


def has_halves(text: str) -> bool:
    """Whether a text holds lone surrogates, which bytes that are not UTF-8 become in file names."""
    return HALVES.search(text) is not None


def _unreadable(path: Path, error: OSError) -> FileError:
    """The error for a file that cannot be read."""
    return FileError(f"{path} cannot be read ({error.strerror or error}).")


def _raw_lines(path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file as bytes, with their ends."""
    try:
        with path.open("rb") as file:
            number = 0
            # In binary mode a line ends at "\n" alone.
            while raw := file.readline(longest + 1):
                number += 1
                if len(raw) > longest:
                    raise FileError(
                        f"{path}, line {number}: longer than {longest // 2**20} MiB; a line is one "
                        "record."
                    )
                yield number, raw
    except OSError as error:
        raise _unreadable(path, error) from error
