"""Published models, for tests that a random one cannot stand in for.

They take minutes, so they are run where `STET_REAL_MODELS` names a folder of such models, and
skipped elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_model(name: str) -> Path:
    """The folder of a published model; skips the test where it is not there."""
    place = os.environ.get("STET_REAL_MODELS")
    if not place:
        pytest.skip(f"needs STET_REAL_MODELS, a folder that holds {name}")
    folder = Path(place) / name
    if not (folder / "config.json").is_file():
        pytest.skip(f"needs {folder}")
    return folder
