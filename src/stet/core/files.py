r"""Text files, ours and others': read and written so that nothing is lost without a word.

A line ends at "\n" and nowhere else: JSON strings, and so records, may hold U+2028, form feeds and
whatever else `str.splitlines` ends a line at. Text is UTF-8. A record that an interrupted write
left without its end is no damage, its work is done again; anything else is one sentence that names
file and line, and nothing is deleted.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stet.core.errors import StetError
from stet.core.parsing import first_problem

if TYPE_CHECKING:
    from io import RawIOBase

LONGEST = 2**28
"""Bytes of a line that are read; a longer one is none."""

_HALVES = re.compile("[\ud800-\udfff]")
# UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class FileError(StetError):
    """A file that cannot be read or written, or holds something else than it should."""


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: its place, from 1.
        text: without its end.
    """

    number: int
    text: str


# Reading


def decoded(content: bytes, where: str) -> str:
    """Bytes as text, without a byte order mark.

    Args:
        content: UTF-8.
        where: what they are of, for an error.

    Raises:
        FileError: they are no UTF-8 text.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            raise FileError(f"{where} cannot be read: it is {name} text; save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise FileError(
            f"{where} cannot be read: byte {error.start + 1} (0x{byte:02x}) is no UTF-8 text; save "
            "it as UTF-8."
        ) from error
    if "\0" in text:
        raise FileError(
            f"{where} cannot be read: it holds a NUL character, so it is no UTF-8 text."
        )
    return text


def lines_of(path: Path, longest: int = LONGEST) -> Iterator[Line]:
    r"""The lines of a text file that anyone may have written, one by one.

    Line ends are "\n" and "\r\n"; the last line may be without one.

    Raises:
        FileError: the file cannot be read, or a line is no UTF-8 text or is too long.
    """
    for number, raw in _raw_lines(path, longest):
        text = decoded(raw, f"{path}, line {number},")
        yield Line(number, text.removesuffix("\n").removesuffix("\r"))


def read_text(path: Path, longest: int = LONGEST) -> str:
    """The text of a file.

    Raises:
        FileError: it cannot be read, is no UTF-8 text or is too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(longest + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > longest:
        raise FileError(f"{path} is longer than {longest // 2**20} MiB.")
    return decoded(content, str(path))


def json_of(text: str, where: str) -> Any:
    """What a text says in JSON.

    Args:
        text: JSON.
        where: where it stands, for an error.

    Raises:
        FileError: it is not JSON, or its strings are no text.
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
    """What each line of a JSONL file says; empty lines say nothing.

    Raises:
        FileError: naming the line that is not JSON.
    """
    lines = lines_of(path)
    return [json_of(text, f"{path}, line {number}") for number, text in lines if text.strip()]


def read_records(
    path: Path, adapter: Any, kind: str, upgrade: Callable[[Any], Any] | None = None
) -> Iterator[Any]:
    """The records of a JSONL file, one by one; a last one without its end is left out.

    Args:
        path: the file.
        adapter: pydantic's `TypeAdapter` of a record.
        kind: what a record is, for an error: "an answer".
        upgrade: makes a record of this release of one that an earlier release wrote.

    Raises:
        FileError: the file cannot be read, or a line is something else.
    """
    from pydantic import ValidationError

    for number, raw in _raw_lines(path, LONGEST):
        if not raw.strip():
            continue
        try:
            yield adapter.validate_json(raw if upgrade is None else _with(upgrade, raw))
        except ValidationError as error:
            if not raw.endswith(b"\n"):
                return  # an interrupted write
            problem = first_problem(error, "the line")
            raise FileError(f"{path}, line {number}: not {kind} ({problem}).") from error


def _with(upgrade: Callable[[Any], Any], raw: bytes) -> bytes:
    """A line as this release would have written it; one that is no JSON is left as it is."""
    try:
        return json.dumps(upgrade(json.loads(raw))).encode()
    except ValueError:
        return raw


def has_halves(text: str) -> bool:
    """Whether a text holds halves of characters, as bytes that are no UTF-8 become in names."""
    return _HALVES.search(text) is not None


def unreadable(path: Path, error: OSError) -> FileError:
    """The sentence for a file that cannot be read."""
    return FileError(f"{path} cannot be read ({error.strerror or error}).")


def _raw_lines(path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a file as bytes, with their ends."""
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
        raise unreadable(path, error) from error


# Writing


def json_line(value: Any, **options: Any) -> str:
    """A record as one line of JSON, without the line's end.

    Args:
        value: what `json.dumps` knows. Halves of characters (names of files may have some) are
            replaced: nobody could read them back.
        **options: of `json.dumps`.
    """
    return _HALVES.sub("\ufffd", json.dumps(value, ensure_ascii=False, **options))


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: whoever interrupts or reads finds the old text or the new one.

    Raises:
        FileError: it cannot be written; the old file is there still.
    """
    write_bytes(path, _encoded(text))


def write_bytes(path: Path, content: bytes) -> None:
    """The same for what is no text."""
    # A link stays a link. What is no plain file (a pipe, /dev/stdout) cannot be replaced.
    place = path.resolve()
    plain = place.is_file() or not place.exists()
    new = place.with_name(place.name + ".new") if plain else place
    try:
        with new.open("wb", buffering=0) as file:
            _write(file, content)
            if plain:
                os.fsync(file.fileno())
        if plain:
            new.replace(place)
    except OSError as error:
        if plain:
            with suppress(OSError):
                new.unlink()
        raise unwritable(path, error) from error


def append_lines(path: Path, lines: Iterable[str], *, durable: bool = True) -> None:
    """Add lines to a file; a write that fails or is interrupted leaves it as it was.

    Args:
        path: the file; made where it is missing.
        lines: without their ends.
        durable: wait until they are on the disk.

    Raises:
        FileError: it cannot be written, or ends inside a line.
    """
    content = _encoded("".join(line + "\n" for line in lines))
    try:
        missing = _missing_end(path)
        with path.open("ab", buffering=0) as file:
            plain = _is_plain(file)
            size = os.fstat(file.fileno()).st_size
            try:
                _write(file, missing + content)
                if plain and durable:
                    os.fsync(file.fileno())
            except BaseException:
                if plain:
                    with suppress(OSError):
                        file.truncate(size)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def drop_torn_line(path: Path) -> None:
    """Make a file of records ready for more: what an interrupted write began is cut off.

    Only for files that are our own: the torn end of another's may be all there is of something.

    Raises:
        FileError: it cannot be read or written.
    """
    try:
        tail = _tail(path)
        if tail and _is_json(tail):
            append_lines(path, [])
        elif tail:
            os.truncate(path, path.stat().st_size - len(tail))
    except OSError as error:
        raise unwritable(path, error) from error


def check_writable(path: Path, *, parents: bool = False, lines: bool = False) -> None:
    """Refuse, before long work, a place that could not be written to after it.

    Args:
        path: a file; nothing of it is changed, and none is made.
        parents: whether missing folders will be made.
        lines: whether lines will be added to it.

    Raises:
        FileError: saying why.
    """
    try:
        if path.is_dir():
            raise FileError(f"{path} cannot be written: it is a folder.")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise FileError(f"{path} cannot be written (Permission denied).")
            if path.is_file():  # to open a pipe would wait for its reader
                with path.open("ab"):
                    pass
            if lines:
                _missing_end(path)
            elif path.is_file():  # a new one will take its place
                _try(path.resolve().parent)
            return
        folder = path.absolute().parent
        while parents and not folder.exists():
            folder = folder.parent
        if not folder.exists():
            raise FileError(f"{path} cannot be written: there is no folder {path.parent}.")
        _try(folder)
    except OSError as error:
        raise unwritable(path, error) from error


def _try(folder: Path) -> None:
    """Make a file in a folder, which nobody sees.

    Raises:
        OSError: that cannot be done.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def unwritable(path: Path, error: OSError) -> FileError:
    """The sentence for a file that cannot be written."""
    return FileError(f"{path} cannot be written ({error.strerror or error}).")


def _write(file: RawIOBase, content: bytes) -> None:
    """All of it: the system may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _encoded(text: str) -> bytes:
    # Half a surrogate pair, which UTF-8 does not know, is escaped.
    return text.encode(errors="backslashreplace")


def _is_plain(file: RawIOBase) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _missing_end(path: Path) -> bytes:
    """The line end that a file lacks, if any.

    Raises:
        FileError: it ends inside a line.
    """
    tail = _tail(path)
    if not tail:
        return b""
    if not _is_json(tail):
        raise FileError(
            f"{path} ends inside a line, as an interrupted write leaves it; take that line away, "
            "or name another file."
        )
    return b"\n"


def _tail(path: Path) -> bytes:
    """What follows the last line end of a plain file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        found = b""
        while position and b"\n" not in found and len(found) < LONGEST:
            step = min(position, max(2**16, len(found)) if found else 1)
            position = file.seek(position - step)
            found = file.read(step) + found
    return found[found.rfind(b"\n") + 1 :]


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True
