"""What a pass of each model costs here, measured once and then frozen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stet.engine.runner import Runner
from stet.models.model import LoadedModel
from stet.row import Row


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of forward passes at batch 1.

    Attributes:
        draft: one token of the draft; 0 for prompt lookup.
        target: the target by number of tokens in the pass, ascending.
    """

    draft: float
    target: dict[int, float]

    @property
    def draft_cost(self) -> float:
        """A draft pass in target passes of one token."""
        return self.draft / self.target[1]

    @property
    def position_cost(self) -> float:
        """What a further token adds to the target's pass, in passes of one token, at least 0."""
        widest = max(self.target)
        slope = (self.target[widest] - self.target[1]) / max(widest - 1, 1)
        return max(slope / self.target[1], 0.0)


# Seconds that a layer takes however small it is, and bytes of weights read per second.
_LAYER_SECONDS = {"cpu": 3e-4, "cuda": 3e-5}
_BANDWIDTH = {"cpu": 2e10, "cuda": 2e12}


def estimate_draft_cost(target: LoadedModel, draft: LoadedModel | None) -> float:
    """A draft pass in target passes, reckoned from the models' sizes alone.

    Coarse, but the same on every run: a sampled text depends on where its blocks end, so what
    chooses their length must not be a measurement if a seed is to give the same text again.
    """

    def seconds(model: LoadedModel) -> float:
        kind = model.device.type
        layer = _LAYER_SECONDS.get(kind, _LAYER_SECONDS["cuda"])
        bandwidth = _BANDWIDTH.get(kind, _BANDWIDTH["cuda"])
        return len(model.layers) * layer + model.parameter_bytes / bandwidth

    return 0.0 if draft is None else seconds(draft) / seconds(target)


def measure_costs(
    target: Runner,
    draft: Runner | None,
    *,
    widths: tuple[int, ...] = (1, 2, 4, 6, 9, 13),
    context: int = 128,
    repeats: int = 7,
) -> Costs:
    """Time passes of both models, the models taking turns; needs a free row in each.

    Args:
        target: the target's runner.
        draft: the draft's, None for prompt lookup.
        widths: numbers of tokens in a target pass; 1 must be among them.
        context: tokens that stand in the cache.
        repeats: timings of each, of which the median counts.
    """
    timers: dict[str | int, Callable[[], None]] = {}
    taken: list[tuple[Runner, Row]] = []
    try:
        length = min(context, target.max_length - max(widths) - 1)
        row = _filled(target, length, taken)
        for width in widths:
            timers[width] = _pass(target, row, length, width)
        if draft is not None:
            length = min(context, draft.max_length - 2)
            timers["draft"] = _pass(draft, _filled(draft, length, taken), length, 1)
        seconds: dict[str | int, list[float]] = {key: [] for key in timers}
        for turn in range(repeats + 2):
            for key, run in timers.items():
                began = time.perf_counter()
                run()
                if turn >= 2:  # the first turns warm up
                    seconds[key].append(time.perf_counter() - began)
    finally:
        for runner, held in taken:
            runner.release(held)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return Costs(
        draft=medians.get("draft", 0.0),
        target={w: medians[w] for w in sorted(widths)},
    )


def _filled(runner: Runner, length: int, taken: list[tuple[Runner, Row]]) -> Row:
    row = runner.allocate()
    taken.append((runner, row))
    tokens = torch.zeros(1, length, dtype=torch.long, device=runner.device)
    runner.forward([row], tokens, [0], logits="none")
    return row


def _pass(runner: Runner, row: Row, start: int, width: int) -> Callable[[], None]:
    tokens = torch.zeros(1, width, dtype=torch.long, device=runner.device)

    def run() -> None:
        runner.forward([row], tokens, [start])
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)

    return run
