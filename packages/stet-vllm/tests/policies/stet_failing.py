"""A policy that fails for some blocks, as a package of somebody else's would bring it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stet.core.blocks import Blocks
from stet.core.verification import Verification
from stet.policies import Exact


@dataclass(frozen=True)
class Failing(Exact):
    """The exact rule, which raises where the third token of a block is not accepted."""

    name: ClassVar[str] = "failing"

    def verify(self, blocks: Blocks) -> Verification:
        """Decide, or raise."""
        found = super().verify(blocks)
        if (found.accepted == 2).any():
            raise ZeroDivisionError("two were accepted")
        return found
