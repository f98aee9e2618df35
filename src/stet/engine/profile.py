"""Profiles: what passes cost on this machine, kept between processes.

Costs choose block lengths, and where two tokens are nearly equal a text may depend on these. With a
profile the same machine chooses the same blocks today and tomorrow, in this process and in another
one that works on the same run, whatever else the machine was doing when it measured.

Costs that turn out wrong are replaced (`stet.engine.current_costs`). A run whose records are added
to by several processes must not change by that, so it has a profile of its own, its record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stet.core.cache import cache_folder
from stet.core.errors import StetError
from stet.core.machine import machine, versions
from stet.core.writing import write_text
from stet.engine.costs import Costs
from stet.engine.current_costs import State

VERSION = 3


class Profile:
    """Costs by state, in memory and, where there is a path, in a file.

    A file that is damaged, or about something else, counts as empty; one that cannot be written is
    done without.

    Args:
        path: the file; None: for this process alone.
        about: what the costs are of.
        source: makes this the record of a run: what is not in it is taken from the source, and
            what is in it stays. None: costs may be replaced.
    """

    def __init__(
        self, path: Path | None, about: Mapping[str, Any], *, source: Profile | None = None
    ) -> None:
        self.path = path
        self.about = dict(about)
        self.is_record = source is not None
        self._source = source
        self._costs = self._read()

    def get(self, state: State) -> Costs | None:
        """The costs in this state; None where they were never measured."""
        found = self._costs.get(state)
        if found is None and self._source is not None:
            found = self._source.get(state)
            if found is not None:
                self.put(state, found)
        return found

    def put(self, state: State, costs: Costs) -> None:
        """Keep costs in place of those of the same state; a record keeps what it has.

        A record takes in the passes that it does not tell of yet.
        """
        # Another process may have added something meanwhile.
        self._costs = {**self._costs, **self._read()}
        known = self._costs.get(state)
        if known is not None and self.is_record:
            draft, target = {**costs.draft, **known.draft}, {**costs.target, **known.target}
            costs = Costs(dict(sorted(draft.items())), dict(sorted(target.items())))
        self._costs[state] = costs
        if self.path is None:
            return
        held = {
            f"{threads} threads, {compiled} compiled": kept.to_json()
            for (threads, compiled), kept in sorted(self._costs.items())
        }
        with suppress(StetError, OSError):
            text = json.dumps({"version": VERSION, "about": self.about, "costs": held}, indent=1)
            write_text(self.path, text + "\n")

    def _read(self) -> dict[State, Costs]:
        try:
            if self.path is None or self.path.stat().st_size > _LARGEST:
                return {}
            found = json.loads(self.path.read_text("utf-8"))
            if found["version"] != VERSION or found["about"] != self.about:
                return {}
            return {_state(name): Costs.from_json(costs) for name, costs in found["costs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


_LARGEST = 1_000_000


def _state(name: str) -> State:
    match = re.fullmatch(r"(\d{1,6}) threads, (\d{1,6}) compiled", name)
    if match is None:
        raise ValueError("This is no state of a process.")
    return int(match[1]), int(match[2])


def open_profile(fingerprint: str, shortlist: int | None = None) -> Profile:
    """Open the profile of a pair on this machine, in the user's cache where there is one.

    Args:
        fingerprint: of the pair.
        shortlist: tokens in the draft's shortlist, on which the time of its passes depends.
    """
    # Threads are a matter of each state.
    hardware = {name: value for name, value in machine().items() if name != "threads"}
    about = {
        "pair": fingerprint,
        "shortlist": shortlist,
        "machine": hardware,
        "versions": versions(),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder("profiles")
    return Profile(None if folder is None else folder / f"{name}.json", about)


def open_record(path: Path, fingerprint: str, source: Profile) -> Profile:
    """Open the record of a run, which is the same on every machine that works on it.

    Args:
        path: the file.
        fingerprint: of the pair.
        source: the costs of the pair on this machine.
    """
    return Profile(path, {"pair": fingerprint}, source=source)
