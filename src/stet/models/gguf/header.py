"""The front matter of a GGUF file: settings, and where each tensor lies.

Everything in a file is taken for hostile until it was checked: a count is compared with the bytes
that are left before anything is made of it, so a broken file costs no more than a few times its own
size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stet.core.errors import LoadError
from stet.models.gguf.types import TYPES, GgmlType

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS[12] = "d"
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_MOST_ENTRIES = 2**22  # of an array: vocabularies and merges have some hundred thousand
_LONGEST_NAME = 200
_LONGEST = 2**24  # bytes of a text: chat templates have some ten thousand
_MOST_DIMENSIONS = 4
_ALIGNMENT = 32


class _Damaged(Exception):
    """The file is not what it should be; the message says in which way."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor of a file.

    Attributes:
        name: its name in the file.
        type: the format of its numbers.
        shape: its shape in torch's order, rows first.
        raw: its bytes, a view of the file: uint8 [rows, bytes of a row].
    """

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    raw: Tensor


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        name: the file as the user named it, for messages.
        settings: its settings ("metadata") by name; arrays are lists.
        tensors: its tensors by name.
    """

    name: str
    settings: dict[str, Any]
    tensors: dict[str, TensorPlace]


def read_header(path: Path, name: str) -> Header:
    """Parse and check the front matter of a file, which is mapped into memory.

    Args:
        path: the file.
        name: the file as the user named it.

    Raises:
        LoadError: it cannot be opened, or is not a whole GGUF file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        if start != MAGIC:
            raise LoadError(f"{name} is not a GGUF file (it begins with other bytes).")
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it could not be mapped into memory"
        raise LoadError(f"{name} cannot be read ({reason}).") from error
    try:
        return _parse(name, content)
    except (_Damaged, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, _Damaged) else "a name in it is not text"
        raise LoadError(f"{name} is damaged ({reason}); get the file again.") from error


def _parse(name: str, content: Tensor) -> Header:
    reader = _Reader(content.numpy().data)
    reader.place = len(MAGIC)
    version = reader.number("I")
    if version not in _VERSIONS:
        raise LoadError(
            f"{name} has version {version} of the GGUF format (or big-endian numbers), and Stet "
            "reads versions 2 and 3; convert the model again with llama.cpp."
        )
    tensors, settings = reader.number("Q"), reader.number("Q")
    reader.check_count(settings, 13)  # a name's length, a type and a byte
    found: dict[str, Any] = {}
    for _ in range(settings):
        key = reader.text()
        if len(key) > _LONGEST_NAME:
            raise _Damaged(f"it has a setting whose name has {len(key)} characters")
        if key in found:
            raise _Damaged(f"it has {key!r} twice")
        found[key] = reader.value(reader.number("I"))
    reader.check_count(tensors, 32)  # a name's length, a dimension, a type and an offset
    entries = [_entry(reader) for _ in range(tensors)]
    alignment = found.get("general.alignment", _ALIGNMENT)
    # A multiple of 8, so that numbers of any size lie where they can be viewed.
    if not isinstance(alignment, int) or not 8 <= alignment <= 2**20 or alignment % 8:
        raise _Damaged(f"its alignment is {str(alignment)[:40]!r}")
    data = -(-reader.place // alignment) * alignment
    places: dict[str, TensorPlace] = {}
    for tensor, kind, shape, offset in entries:
        if tensor in places:
            raise _Damaged(f"it has {tensor!r} twice")
        rows, width = prod(shape[:-1]), kind.row_bytes(shape[-1])
        begin, end = data + offset, data + offset + rows * width
        if offset % alignment or end > content.numel():
            raise _Damaged(f"{tensor!r} lies outside the file")
        places[tensor] = TensorPlace(tensor, kind, shape, content[begin:end].view(rows, width))
    return Header(name, found, places)


def _entry(reader: _Reader) -> tuple[str, GgmlType, tuple[int, ...], int]:
    """Name, format, shape and offset of a tensor."""
    name = reader.text()
    if len(name) > _LONGEST_NAME:
        raise _Damaged(f"it has a tensor whose name has {len(name)} characters")
    dimensions = reader.number("I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise _Damaged(f"{name!r} has {dimensions} dimensions")
    shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
    number = reader.number("I")
    kind = TYPES.get(number)
    if kind is None:
        raise _Damaged(f"{name!r} has the unknown type {number}")
    if not all(shape) or shape[-1] % kind.block:
        raise _Damaged(f"{name!r} has the shape {list(shape)}, which {kind.name} cannot have")
    return name, kind, shape, reader.number("Q")


class _Reader:
    """Reads numbers and texts one after the other, and never beyond the end."""

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.place = 0

    def take(self, size: int) -> memoryview:
        start, self.place = self.place, self.place + size
        if self.place > len(self.content):
            raise _Damaged("it ends too early")
        return self.content[start : self.place]

    def check_count(self, count: int, size: int) -> None:
        """Refuse a count of things that take at least `size` bytes each, where fewer are left."""
        if count * size > len(self.content) - self.place:
            raise _Damaged("it ends too early")

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        # A loop of its own: vocabularies have some hundred thousand.
        content, place, end, length = self.content, self.place, len(self.content), _LENGTH
        found: list[str] = []
        for _ in range(count):
            start = place + length.size
            if start > end:
                raise _Damaged("it ends too early")
            (size,) = length.unpack_from(content, place)
            if size > _LONGEST:
                raise _Damaged(f"it has a text of {size} bytes")
            place = start + size
            if place > end:
                raise _Damaged("it ends too early")
            found.append(str(content[start:place], "utf-8"))
        self.place = place
        return found

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise _Damaged(f"it has a setting of the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if count > _MOST_ENTRIES:
            raise _Damaged(f"it has an array of {count} entries")
        if kind == _STRING:
            self.check_count(count, 8)
            return self.texts(count)
        if kind not in _NUMBERS:
            raise _Damaged(f"it has an array of the unknown type {kind}")
        form = f"<{count}{_NUMBERS[kind]}"
        return list(struct.unpack(form, self.take(struct.calcsize(form))))
