"""The folder of what is kept between processes: compiled kernels, profiles of machines."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder(name: str) -> Path | None:
    """A folder for one kind of thing, made where it is missing; None where nothing can be kept.

    It is `$STET_CACHE`, or `stet` in `$XDG_CACHE_HOME` or `~/.cache`, and the user's own: where
    anybody else could write to it, it is not used, since libraries are loaded from there.

    Args:
        name: of the folder in it.
    """
    try:
        own = os.environ.get("STET_CACHE", "")
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = Path(own) if own else (given if given.is_absolute() else Path.home() / ".cache")
        folder = (base if own else base / "stet") / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = is_own(folder) and os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # without a home there is a RuntimeError
        return None
    return folder if usable else None


def is_own(path: Path) -> bool:
    """Whether a file or folder exists, and nobody but its owner, the user, can write to it.

    A link is not one, wherever it leads: somebody else may have put it there.
    """
    try:
        state = path.lstat()
    except OSError:
        return False
    if os.name != "posix":
        return True
    plain = stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)
    return plain and state.st_uid == os.getuid() and not state.st_mode & 0o022
