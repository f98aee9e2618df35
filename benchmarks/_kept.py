"""Records of long runs, kept in the repository: hours of work, in few bytes.

A folder of records becomes one archive under `benchmarks/records`. What a run can make anew at once
(problems, answers that were begun) is left out, and so is what no report reads.
"""

from __future__ import annotations

import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path

RECORDS = Path(__file__).parent / "records"
LARGEST = 20 * 2**20
"""The most bytes of an archive, as of every file here."""

_LEFT_OUT = ("problems", "target", "draft")
_ENDS = (".jsonl", ".json", ".safetensors")


def keep(folder: Path) -> Path:
    """Pack a folder of records into its archive; the same records give the same bytes."""
    path = archive_of(folder)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    with (
        lzma.open(temporary, "wb", preset=9) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in _files(folder):
            info = archive.gettarinfo(str(file), str(file.relative_to(folder)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = 0
            info.mode = 0o644
            with file.open("rb") as content:
                archive.addfile(info, content)
    size = temporary.stat().st_size
    if size > LARGEST:
        temporary.unlink()
        raise SystemExit(f"The records of {folder} would take {size} bytes, more than {LARGEST}.")
    temporary.replace(path)
    return path


def restore(folder: Path) -> bool:
    """Unpack what is kept of a folder that is not there; return whether anything was."""
    path = archive_of(folder)
    if any(_files(folder)) or not path.exists():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(path) as packed, tarfile.open(fileobj=packed) as archive:
        archive.extractall(folder, filter="data")
    return True


def archive_of(folder: Path) -> Path:
    """The archive of a folder."""
    return RECORDS / f"{folder.name}.tar.xz"


def _files(folder: Path) -> Iterator[Path]:
    """The records of a folder, in a fixed order."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        is_begun = file.name.endswith(".begun.json")
        if file.is_file() and file.suffix in _ENDS and parts[0] not in _LEFT_OUT and not is_begun:
            yield file
