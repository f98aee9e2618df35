"""Costs of a pass of each model on this machine, as they are frozen in each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stet.core.model import LoadedModel

BLOCK = 13
"""Tokens of a target's pass over a long block, of which the cost of a position is computed."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of forward passes, by the number of tokens in them, ascending.

    Attributes:
        draft: of the draft's passes; empty for prompt lookup.
        target: of the target's passes.
        disturbed: whether other work held the machine's cores while they were measured.
    """

    draft: dict[int, float]
    target: dict[int, float]
    disturbed: bool = False

    @property
    def draft_cost(self) -> float:
        """Cost of a draft pass over one token, in target passes over one."""
        return self.draft_pass(1) / self.target[1]

    @property
    def position_cost(self) -> float:
        """Cost of a further token in the target's pass, in passes of one token, at least 0."""
        slope = self.target_pass(BLOCK) - self.target[1]
        return max(slope / (BLOCK - 1) / self.target[1], 0.0)

    @property
    def spare_positions(self) -> float | None:
        """What a pass of the target costs beside its positions, in positions; None: unbounded."""
        return max(1 / self.position_cost - 1, 0.0) if self.position_cost else None

    @property
    def reading(self) -> float:
        """Seconds that the draft takes to read a token of a prompt.

        Reading is a matter of arithmetic, of which a draft has its share.
        """
        return self.draft_pass(1) * self.position_cost

    def to_json(self) -> dict[str, Any]:
        """The costs as a file holds them."""
        passes = {
            role: {str(tokens): seconds for tokens, seconds in passes.items()}
            for role, passes in (("draft", self.draft), ("target", self.target))
        }
        return {**passes, "disturbed": self.disturbed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Costs:
        """Read costs from a file.

        Raises:
            ValueError: they are no costs.
        """
        draft, target = (
            {int(tokens): float(seconds) for tokens, seconds in sorted(value[role].items())}
            for role in ("draft", "target")
        )
        seconds = [*draft.values(), *target.values()]
        if 1 not in target or (draft and 1 not in draft) or not all(0 < s < 1e6 for s in seconds):
            raise ValueError("These are no costs of passes.")
        return cls(draft, target, bool(value["disturbed"]))

    def draft_pass(self, tokens: int) -> float:
        """Seconds of a draft pass over so many tokens of any rows; 0 for prompt lookup."""
        return interpolate(self.draft, tokens) if self.draft else 0.0

    def target_pass(self, tokens: int) -> float:
        """Seconds of a target pass over so many tokens of any rows."""
        return interpolate(self.target, tokens)


def interpolate(seconds: Mapping[int, float], tokens: int) -> float:
    """Seconds of a pass over `tokens`, between and beyond the numbers that were measured."""
    known = sorted(seconds)
    if tokens in seconds or len(known) == 1:
        return seconds[tokens if tokens in seconds else known[0]]
    upper = next((n for n in known if n > tokens), known[-1])
    lower = known[max(known.index(upper) - 1, 0)]
    slope = (seconds[upper] - seconds[lower]) / (upper - lower)
    # Noise must not make longer and longer passes look cheaper.
    return seconds[lower] + max(slope, 0.0) * (tokens - lower)


# Seconds that a layer takes however small it is, and bytes of weights read per second.
_LAYER_SECONDS = {"cpu": 3e-4, "cuda": 3e-5}
_BANDWIDTH = {"cpu": 2e10, "cuda": 2e12}


def estimate_draft_cost(target: LoadedModel, draft: LoadedModel | None) -> float:
    """Estimate the cost of a draft pass, in target passes, from the models' sizes alone.

    The estimate is coarse, but the same on every run: a sampled text depends on where its blocks
    end, so their lengths must not depend on a measurement if a seed is to give the same text again.
    """

    def seconds(model: LoadedModel) -> float:
        kind = model.device.type
        layer = _LAYER_SECONDS.get(kind, _LAYER_SECONDS["cuda"])
        bandwidth = _BANDWIDTH.get(kind, _BANDWIDTH["cuda"])
        return len(model.layers) * layer + model.parameter_bytes / bandwidth

    return 0.0 if draft is None else seconds(draft) / seconds(target)
