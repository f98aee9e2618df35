r"""Text files, read and written so that no data is lost without an error.

A line ends at "\n" and nowhere else: JSON strings, and so records, may hold U+2028, form feeds and
whatever else `str.splitlines` ends a line at. Text is UTF-8. A last record that an interrupted
write left without its end is ignored, and its work is done again; anything else that cannot be read
is an error that names file and line, and nothing is deleted.
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
"""The most bytes of a line; a longer one is an error."""

_HALVES = re.compile("[\ud800-\udfff]")
# UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class FileError(StetError):
    """A file that cannot be read or written, or whose content is not what it should be."""


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: its number in the file, from 1.
        text: the line without its end.
    """

    number: int
    text: str


# Reading


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
        raise unreadable(path, error) from error
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
    return _HALVES.search(text) is not None


def unreadable(path: Path, error: OSError) -> FileError:
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
        raise unreadable(path, error) from error


# Writing


def json_line(value: Any, **options: Any) -> str:
    """A record as one line of JSON, without the line's end.

    Args:
        value: a value that `json.dumps` takes. Lone surrogates (names of files may have some) are
            replaced, since they could not be read back.
        **options: options of `json.dumps`.
    """
    return _HALVES.sub("\ufffd", json.dumps(value, ensure_ascii=False, **options))


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: after an interruption it holds the old text or the new one.

    Raises:
        FileError: it cannot be written; the old file is unchanged.
    """
    write_bytes(path, _encode(text))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically, as `write_text` does, with bytes.

    Raises:
        FileError: it cannot be written; the old file is unchanged.
    """
    # A link stays a link. A file that is not plain (a pipe, /dev/stdout) cannot be replaced.
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
        path: the file; created where it is missing.
        lines: lines without their ends.
        durable: wait until they are on the disk.

    Raises:
        FileError: it cannot be written, or ends inside a line.
    """
    content = _encode("".join(line + "\n" for line in lines))
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
    """Prepare a file of records for more: cut off what an interrupted write began.

    Only for files that Stet wrote: the torn end of another file may be its only copy of something.

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
    """Check before long work that its result can be written.

    Args:
        path: the file; it is neither changed nor created.
        parents: whether missing folders will be created.
        lines: whether lines will be added to it.

    Raises:
        FileError: it cannot be written, and why.
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
    """Try to create a file in a folder; it has no name and is gone at once.

    Raises:
        OSError: no file can be created there.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def unwritable(path: Path, error: OSError) -> FileError:
    """The error for a file that cannot be written."""
    return FileError(f"{path} cannot be written ({error.strerror or error}).")


def _write(file: RawIOBase, content: bytes) -> None:
    """Write all of the content; the system may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _encode(text: str) -> bytes:
    # A lone surrogate, which UTF-8 cannot encode, is escaped.
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
    """The bytes after the last line end of a plain file."""
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
