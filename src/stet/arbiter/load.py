"""Loading arbiters by name: from a folder, from the hub, or as shipped with the package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from stet.arbiter.arbiter import SETTINGS, WEIGHTS, Arbiter
from stet.core.errors import LoadError, OptionError

BUNDLED = "bundled"
"""The name of the arbiter for the bundled pair, which ships with the package."""


@lru_cache(maxsize=8)
def load_arbiter(name: str) -> Arbiter:
    """Load the arbiter of a name; each is loaded once.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        LoadError: files are missing or unreadable.
    """
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith((".", "~", "/")) or name.count("/") != 1:
        return Arbiter.load(folder)
    return _from_hub(name)


@lru_cache(maxsize=2)
def shipped_arbiter(folder: Path) -> Arbiter:
    """Load an arbiter that ships with the package, under the name "bundled".

    Raises:
        LoadError: the package does not contain it.
    """
    arbiter = Arbiter.load(folder)
    arbiter.name = BUNDLED
    return arbiter


def as_arbiter(arbiter: Any) -> Arbiter:
    """The arbiter that a name or an object stands for.

    Raises:
        OptionError: it is neither.
        LoadError: it cannot be loaded.
    """
    if isinstance(arbiter, Arbiter):
        return arbiter
    if not isinstance(arbiter, str) or not arbiter:
        raise OptionError(f"arbiter is {arbiter!r}; give a folder or a hub name.")
    return load_arbiter(arbiter)


def _from_hub(name: str) -> Arbiter:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # Only these two files are fetched, and neither can contain code.
        files = [Path(hf_hub_download(name, file)) for file in (SETTINGS, WEIGHTS)]
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise LoadError(f"There is no arbiter {name!r}: no such folder, nor on the hub.") from error
    arbiter = Arbiter.load(files[0].parent)
    arbiter.name = name
    return arbiter
