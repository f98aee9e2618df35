"""Policies in files: what a calibration or a training wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stet.core.errors import OptionError
from stet.core.upgrades import NAMES

SUFFIX = ".json"
"""Of a name that means such a file."""


def read_artefact(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the policy in a file.

    Raises:
        OptionError: the file cannot be read, or holds something else.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        values = {NAMES.get(name, name): value for name, value in record["parameters"].items()}
        return str(record["policy"]), values
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path} holds no policy with its parameters.") from error
