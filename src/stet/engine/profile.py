"""Profiles: what passes cost on this machine, kept between processes.

Costs choose block lengths, and where two tokens are nearly equal a text may depend on these. With a
profile the same machine chooses the same blocks today and tomorrow, in this process and in another
one that works on the same run, whatever else the machine was doing when it measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stet.core.cache import cache_folder
from stet.core.errors import StetError
from stet.core.machine import machine, versions
from stet.core.writing import write_text
from stet.engine.costs import Costs

VERSION = 2


class Profile:
    """A file that holds costs, by how many passes were compiled when they were measured.

    A file that is damaged, or about something else, counts as empty; one that cannot be written is
    done without.

    Args:
        path: the file.
        about: what the costs are of.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._about = dict(about)
        self._costs = self._read()

    def get(self, compiled: int) -> Costs | None:
        """The costs with so many passes compiled; None where they were never measured."""
        return self._costs.get(compiled)

    def put(self, compiled: int, costs: Costs) -> None:
        """Keep costs, unless there are some already that say as much."""
        known = self._costs.get(compiled)
        if known is not None and known.target.keys() >= costs.target.keys():
            return
        self._costs[compiled] = costs
        held = {str(n): kept.to_json() for n, kept in sorted(self._costs.items())}
        with suppress(StetError, OSError):
            text = json.dumps({"version": VERSION, "about": self._about, "costs": held}, indent=1)
            write_text(self.path, text + "\n")

    def _read(self) -> dict[int, Costs]:
        try:
            found = json.loads(self.path.read_text("utf-8"))
            if found["version"] != VERSION or found["about"] != self._about:
                return {}
            return {int(n): Costs.from_json(costs) for n, costs in found["costs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def open_profile(fingerprint: str, *, max_length: int) -> Profile | None:
    """Open the profile of a pair on this machine, in the user's cache; None where there is none.

    Args:
        fingerprint: of the pair.
        max_length: tokens of a sequence, which limits the passes that can be measured.
    """
    about = {
        "pair": fingerprint,
        "max_length": max_length,
        "machine": machine(),
        "versions": versions(),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder("profiles")
    return None if folder is None else Profile(folder / f"{name}.json", about)
