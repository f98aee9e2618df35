"""The modules of the folder of recipes, which is no package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

FOLDER = str(Path(__file__).resolve().parents[1] / "recipes")


@contextmanager
def recipe_modules(*names: str, helpers: tuple[str, ...] = ()) -> Iterator[SimpleNamespace]:
    """Modules of recipes by name; afterwards they, and the helpers they import, are forgotten."""
    sys.path.insert(0, FOLDER)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(FOLDER)
        for name in (*names, *helpers):
            sys.modules.pop(name, None)
