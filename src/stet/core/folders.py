"""Folders of long work, which goes on in them after an interruption: one piece of work each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stet.core.errors import StetError
from stet.core.reading import read_text
from stet.core.writing import write_text

SETTINGS = "settings.json"
"""The file that says what a folder was claimed for."""

PROFILE = "profile.json"
"""The file that holds what passes cost when the work began, so that it goes on the same way."""


def claim_folder(folder: Path, settings: dict[str, Any], work: str) -> None:
    """Claim a folder for work under some settings; a new one is created.

    To be called before anything else is written to the folder.

    Args:
        folder: the folder.
        settings: all that its results depend on, as JSON.
        work: what the work is called in an error, such as "training".

    Raises:
        StetError: it was claimed for other settings; it is left as it was.
    """
    path = folder / SETTINGS
    text = json.dumps(settings, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_text(path, text)
    elif read_text(path) != text:
        raise StetError(
            f"{folder} holds another {work}; choose another folder, or delete that one."
        )
