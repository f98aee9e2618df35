"""The score of a step: a weighted mean of signals, each normalised to 0 .. 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from stet.core.errors import OptionError
from stet.core.needs import AttentionCapture, Need
from stet.core.sampling import SamplingParams
from stet.core.step_policy import Candidate
from stet.rewards.head import RewardHead
from stet.signals import HEAD, SIGNALS, Signal, trained


@dataclass(frozen=True)
class StepScore:
    """What SpecGuard's parameters of these names say of a step.

    Attributes:
        signals: names of the signals.
        weights: weight of each signal; equal if empty.
        ranges: for each signal the raw values that count as 0 and as 1; if empty, probabilities
            are used as they are.
        folder: of the trained signal, where it is among them.
    """

    signals: tuple[str, ...]
    weights: tuple[float, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            OptionError: naming the parameter of the policy.
        """
        if HEAD in self.signals and self.folder is None:
            raise OptionError('The signal "head" is trained; name its folder (head=...).')
        for signal in self.signals:
            if signal not in SIGNALS and signal != HEAD:
                listed = ", ".join((*SIGNALS, HEAD))
                raise OptionError(f"There is no signal {signal!r}; choose from {listed}.")
            if self.signals.count(signal) > 1:
                raise OptionError(f"Signal {signal!r} is named twice; give it a larger weight.")
        for name, given in (("weights", self.weights), ("ranges", self.ranges)):
            if given and len(given) != len(self.signals):
                raise OptionError(
                    f"{name} has {len(given)} entries for {len(self.signals)} signals."
                )
        if self.weights and not (
            all(0 <= w < math.inf for w in self.weights) and any(self.weights)
        ):
            raise OptionError("weights must not be negative, nor all 0.")
        for signal, ends in zip(self.signals, self.ranges, strict=False):
            if not _is_range(ends):
                raise OptionError(f"The range of {signal} needs two different numbers.")

    @property
    def pair(self) -> str | None:
        """Fingerprint of the only pair that the trained signal is for; None without one."""
        return self._head.pair if HEAD in self.signals else None

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the draft's passes."""
        return frozenset[Need]().union(*(signal.needs for signal in self._used))

    @property
    def reads(self) -> frozenset[str]:
        """Which statistics of candidates it is computed from."""
        return frozenset(signal.reads for signal in self._used if signal.reads is not None)

    @property
    def capture(self) -> AttentionCapture | None:
        """Which attention of the draft the engine must capture."""
        return AttentionCapture.union(signal.capture for signal in self._used)

    def measure(self, candidates: Sequence[Candidate]) -> list[dict[str, float]]:
        """The raw signals of each candidate, by name."""
        columns = [signal.measure(candidates) for signal in self._used]
        return [dict(zip(self.signals, row, strict=True)) for row in zip(*columns, strict=True)]

    def units(self, raw: dict[str, float]) -> dict[str, float]:
        """The normalised signals, 0 to 1, by name."""
        return {name: self._unit(i, raw[name]) for i, name in enumerate(self.signals)}

    def mean(self, units: Sequence[float]) -> float | None:
        """The score of normalised signals in their order; None without signals."""
        if not units:
            return None
        weights = self.weights or (1.0,) * len(units)
        return sum(w * v for w, v in zip(weights, units, strict=True)) / sum(weights)

    def best(self, sampling: SamplingParams) -> Callable[[Sequence[float]], float] | None:
        """The best score that a greedy step can still have after its first tokens.

        Args:
            sampling: how the step is written.

        Returns:
            A function of the log-probabilities of its first tokens; None where no signal is bounded
            by them.
        """
        bounds = [self._bound(i, sampling) for i in range(len(self.signals))]
        if not any(bounds):
            return None

        def score(logprobs: Sequence[float]) -> float:
            units = [
                1.0 if bound is None else self._unit(i, bound(logprobs))
                for i, bound in enumerate(bounds)
            ]
            found = self.mean(units)
            assert found is not None
            return found

        return score

    @cached_property
    def _used(self) -> list[Signal]:
        return [
            SIGNALS[name] if name != HEAD else trained(self._head.logits) for name in self.signals
        ]

    @cached_property
    def _head(self) -> RewardHead:
        assert self.folder is not None
        return RewardHead.load(self.folder)

    def _unit(self, index: int, value: float) -> float:
        if not self.ranges:
            return min(max(self._used[index].unit(value), 0.0), 1.0)
        low, high = self.ranges[index]
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def _bound(
        self, index: int, sampling: SamplingParams
    ) -> Callable[[Sequence[float]], float] | None:
        """A bound on a signal from the first tokens of a step; None where none is known."""
        signal = self._used[index]
        if signal.best_of_favourites and sampling.edits_logits:
            return None  # tokens need not be the most probable of the raw distribution
        if self.ranges:
            low, high = self.ranges[index]
            if (high - low) * signal.sign < 0:
                return None  # this range reverses the signal
        return signal.best


def _is_range(ends: object) -> bool:
    return (
        isinstance(ends, tuple)
        and len(ends) == 2
        and all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
        and ends[0] != ends[1]
    )
