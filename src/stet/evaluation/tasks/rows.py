"""The records of a data set: from a local file, or from the Hugging Face hub."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stet.core.errors import FileError, first_line
from stet.core.reading import decode, json_of
from stet.evaluation.tasks.base import TaskError

Row = Mapping[str, Any]

OLDEST_DATASETS = 4
"""From this version on, `datasets` runs no code of a data set."""


def read_rows(path: Path) -> list[Row]:
    """Read the records of a JSONL file, or of a JSON file with a list of records; also `.gz`.

    Raises:
        TaskError: naming the line that is not a record.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        rows = _rows(path, decode(content, str(path)))
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read: {error}.") from error
    except FileError as error:
        raise TaskError(str(error)) from error
    for where, row in rows:
        if not isinstance(row, dict):
            raise TaskError(f"{where}: not a record.")
    if not rows:
        raise TaskError(f"{path} holds no records.")
    return [row for _, row in rows]


def _rows(path: Path, text: str) -> list[tuple[str, Any]]:
    """Parse the entries of a list, or else the lines; each with its position for errors."""
    if text.lstrip().startswith("["):
        listed = json_of(text, str(path))
        return [(f"{path}, entry {number}", row) for number, row in enumerate(listed, 1)]
    places = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
    return [(where, json_of(line, where)) for where, line in places if line.strip()]


def fetch_rows(task: str, repository: str, configuration: str | None, split: str) -> list[Row]:
    """Fetch the records of a data set on the hub.

    Raises:
        TaskError: the package `datasets` is missing, or the hub cannot be reached.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise TaskError(
            f"To fetch {task} from the hub, pip install 'stet-decoding[tasks]'; or name a local "
            f"file of it."
        ) from error
    version = str(getattr(datasets, "__version__", "0"))
    if int(version.partition(".")[0]) < OLDEST_DATASETS:
        raise TaskError(
            f"datasets {version} may run code from the hub; pip install 'datasets>="
            f"{OLDEST_DATASETS}'."
        )
    try:
        loaded = datasets.load_dataset(repository, configuration, split=split)
    except Exception as error:  # whatever network, cache and hub may raise
        first = first_line(error)
        raise TaskError(
            f"{task} ({repository}, split {split}) cannot be fetched: {first}; name a local file "
            f"of it instead."
        ) from error
    return [dict(row) for row in loaded]


def value(row: Row, name: str, where: str) -> Any:
    """A field of a record.

    Raises:
        TaskError: the record has no such field; the message names its fields.
    """
    if name not in row:
        raise TaskError(f"{where} has no field {name!r}; it has: {', '.join(row) or 'none'}.")
    return row[name]


def as_text(found: Any, name: str, where: str) -> str:
    """A field as text: strings as they are, numbers and truth values as JSON writes them.

    Raises:
        TaskError: for anything else.
    """
    if isinstance(found, str):
        return found
    if isinstance(found, float) and found.is_integer():
        return str(int(found))
    if isinstance(found, bool | int | float):
        return json.dumps(found)
    kind = "empty" if found is None else f"a {type(found).__name__}"
    raise TaskError(f"{where}: the field {name!r} is {kind}; it must be a text or a number.")
