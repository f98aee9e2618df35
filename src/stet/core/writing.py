"""Writing text files so that no data is lost without an error: replaced whole, or added to.

An interrupted write leaves the old text, or a last line without its end, which `core/reading.py`
passes over. Text is UTF-8.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.core.errors import FileError
from stet.core.reading import HALVES, LONGEST

if TYPE_CHECKING:
    from io import RawIOBase


def json_line(value: Any, **options: Any) -> str:
    """A record as one line of JSON, without the line's end.

    Args:
        value: a value that `json.dumps` takes. Lone surrogates (names of files may have some) are
            replaced, since they could not be read back.
        **options: options of `json.dumps`.
    """
    return HALVES.sub("\ufffd", json.dumps(value, ensure_ascii=False, **options))


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
        raise _unwritable(path, error) from error


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
        raise _unwritable(path, error) from error


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
        raise _unwritable(path, error) from error


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
        raise _unwritable(path, error) from error


def _try(folder: Path) -> None:
    """Try to create a file in a folder; it has no name and is gone at once.

    Raises:
        OSError: no file can be created there.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def _unwritable(path: Path, error: OSError) -> FileError:
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
