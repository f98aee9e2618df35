"""The settings of a tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stet.core.errors import OptionError
from stet.tuning.examples import SMALLEST, Example


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """The settings of a tuning.

    Attributes:
        examples: what is learned.
        validation: other examples, by which the best state is chosen.
        rank: of the low-rank updates.
        epochs: times that every example is seen.
        rate: peak learning rate; it rises over the first twentieth and falls as a cosine.
        batch: examples of an optimiser step.
        seed: of the order of the examples and of the initial updates.
        checks: validations, evenly spaced; the last is at the end.
    """

    examples: Sequence[Example]
    validation: Sequence[Example]
    rank: int = 16
    epochs: float = 2.0
    rate: float = 2e-4
    batch: int = 16
    seed: int = 0
    checks: int = 6

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used.

        Raises:
            OptionError: the message says what is wrong.
        """
        for name, some in (("examples", self.examples), ("validation", self.validation)):
            if len(some) < SMALLEST:
                raise OptionError(f"{len(some)} {name} are too few; give {SMALLEST} or more.")
        for name in ("rank", "batch", "checks"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("epochs", "rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be above 0.")
        shared = {e.prompt for e in self.examples} & {e.prompt for e in self.validation}
        if shared:
            raise OptionError(
                f"{len(shared)} of the validation prompts are also learned; give others."
            )

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, round(self.epochs * len(self.examples) / self.batch))

    def settings(self, base: str) -> dict[str, Any]:
        """All settings that a folder's results depend on."""
        own = asdict(self)
        for name in ("examples", "validation"):
            text = json.dumps([[*e.prompt, -1, *e.answer] for e in getattr(self, name)])
            own[name] = {
                "count": len(getattr(self, name)),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        return {"base": base, **own}
