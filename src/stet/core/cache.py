"""The folder of what is kept between processes: compiled kernels, profiles of machines."""

from __future__ import annotations

import os
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
        state = folder.stat()
    except (OSError, RuntimeError):  # without a home there is a RuntimeError
        return None
    if os.name == "posix" and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
