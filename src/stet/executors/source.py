"""What a pair is loaded from, as a description that another process can load it by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stet.pair import Pair


@dataclass(frozen=True)
class PairSource:
    """What a pair is loaded from.

    Attributes:
        arguments: arguments of `stet.load_pair`: names, paths and settings.
        warm_up: compile all short passes before anything is run.
        folder: the folder that relative paths are meant from; empty: where the process is.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    warm_up: bool = False
    folder: str = ""

    @property
    def device(self) -> str:
        """The device that was asked for."""
        return str(self.arguments.get("device", "auto"))

    def load(self) -> Pair:
        """Load the pair in this process.

        Raises:
            StetError: it cannot be loaded or run faithfully.
        """
        import stet

        return stet.load_pair(**self.arguments)

    def load_elsewhere(self) -> Pair:
        """Load the pair in a process that was begun in another folder, perhaps of another machine.

        Raises:
            StetError: it cannot be loaded or run faithfully.
        """
        with suppress(OSError):  # another machine may lack it; names of the hub do without
            os.chdir(self.folder or os.curdir)
        pair = self.load()
        if self.warm_up:
            pair.warm_up()
        return pair
