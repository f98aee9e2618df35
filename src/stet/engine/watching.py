"""Watching of passes: whether they take the time that was measured."""

from __future__ import annotations

from stet.core.row import Role

TOLERANCE = 1.25
"""How many times as long, or as short, passes may take as was measured."""

WINDOW = 32
"""Passes of a model that are judged together, by their lower quartile."""


class Watch:
    """Compares what passes of requests took with what was measured."""

    def __init__(self) -> None:
        self._ratios: dict[Role, list[float]] = {"target": [], "draft": []}
        self._off: dict[Role, int] = {"target": 0, "draft": 0}

    @property
    def disagrees(self) -> bool:
        """Whether the passes of a model took another time in two windows on end."""
        return any(count >= 2 for count in self._off.values())

    def add(self, role: Role, ratio: float) -> None:
        """Add a pass that took `ratio` times what was measured."""
        ratios = self._ratios[role]
        ratios.append(ratio)
        if len(ratios) == WINDOW:
            typical = sorted(ratios)[WINDOW // 4]
            agrees = 1 / TOLERANCE <= typical <= TOLERANCE
            self._off[role] = 0 if agrees else self._off[role] + 1
            ratios.clear()

    def clear(self) -> None:
        """Forget what was seen, as there are other costs to compare with."""
        for role in self._ratios:
            self._ratios[role].clear()
            self._off[role] = 0
