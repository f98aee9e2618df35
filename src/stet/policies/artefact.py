"""Policies in files, as a calibration writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stet.core.errors import OptionError
from stet.core.upgrades import upgrade_parameters

SUFFIX = ".json"
"""The suffix by which a policy's name is taken for the path of a file."""


FOLDER = "head"
"""The parameter that names a folder; one beside the file is named without a path."""


def located(parameters: dict[str, Any], path: Path) -> dict[str, Any]:
    """The parameters of a file, with the path of the folder that lies beside it."""
    beside = parameters.get(FOLDER)
    # An absolute path stays as it is.
    return parameters if beside is None else {**parameters, FOLDER: str(path.parent / beside)}


def read_artefact(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Read the name and the parameters of the policy in a file.

    Raises:
        OptionError: the file cannot be read or holds no policy.
    """
    name, values, _ = read_record(path)
    return name, values


def read_record(path: str | Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read the name and the parameters of the policy in a file, and all that the file says.

    Raises:
        OptionError: the file cannot be read or holds no policy.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        name = str(record["policy"])
        values = located(upgrade_parameters(name, record["parameters"]), Path(path))
        return name, values, dict(record)
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path} holds no policy with its parameters.") from error
