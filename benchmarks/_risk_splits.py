"""Re-splits of a pool by problem: how often is the chosen threshold's risk above the bound?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, rankdata
from statsmodels.stats.proportion import proportion_confint

from stet.calibration.choosing import ThresholdPoint, Wish, choose, with_bounds
from stet.core.errors import StetError

Counts = NDArray[np.int64]
"""[K, 5]: per threshold the problems that are right and that are lost, and the steps, accepted
steps and accepted steps from the first error on, of a set of problems."""

RIGHT, LOST, STEPS, KEPT, TAINTED = range(5)


@dataclass(frozen=True)
class Draw:
    """A calibration set of n problems, and what is left of the pool."""

    problems: int
    drawn: Counts
    left: int
    rest: Counts


Method = Callable[[Draw, Sequence[float], float, float], int | None]
"""Chooses a threshold for (draw, thresholds, alpha, delta); None where none will do."""


def counts_of(lines: Sequence[dict[str, Any]]) -> Counts:
    """[N, K, 5] of the problems of a pool."""
    names = ("right", "lost", "steps", "kept", "tainted")
    return np.array([[[int(o[n]) for n in names] for o in line["outcomes"]] for line in lines])


def draws(pool: Counts, problems: int, count: int, seed: int) -> Iterator[Draw]:
    """Random calibration sets, without replacement; the same seed gives the same."""
    generator = np.random.default_rng([seed, problems])
    total = pool.sum(0)
    for _ in range(count):
        drawn = pool[generator.choice(len(pool), problems, replace=False)].sum(0)
        yield Draw(problems, drawn, len(pool) - problems, total - drawn)


def product(draw: Draw, thresholds: Sequence[float], alpha: float, delta: float) -> int | None:
    """As `stet calibrate --risk` chooses."""
    shares = draw.drawn[:, KEPT] / draw.drawn[:, STEPS]
    ranks = tuple(int(r) for r in rankdata(shares, "dense"))
    losses = tuple(int(x) for x in draw.drawn[:, LOST])
    return _choose(losses, ranks, tuple(thresholds), draw.problems, alpha, delta)


@lru_cache(maxsize=1 << 18)
def _choose(
    losses: tuple[int, ...],
    ranks: tuple[int, ...],
    thresholds: tuple[float, ...],
    problems: int,
    alpha: float,
    delta: float,
) -> int | None:
    try:
        points = _points(losses, ranks, thresholds, problems, alpha)
        chosen = choose(points, Wish("risk", alpha, delta))
    except StetError:
        return None
    return thresholds.index(chosen.threshold)


@lru_cache(maxsize=1 << 12)
def _points(
    losses: tuple[int, ...],
    ranks: tuple[int, ...],
    thresholds: tuple[float, ...],
    problems: int,
    alpha: float,
) -> list[ThresholdPoint]:
    # Only the order of the accepted shares counts: many draws have the same losses and order.
    points = [
        ThresholdPoint(t, problems, 0, 1.0, rank / len(ranks), lost)
        for t, rank, lost in zip(thresholds, ranks, losses, strict=True)
    ]
    return with_bounds(points, alpha)


def uncorrected(draw: Draw, thresholds: Sequence[float], alpha: float, delta: float) -> int | None:
    """Tests as `product` makes them, without correcting for how many there are."""
    losses = tuple(int(x) for x in draw.drawn[:, LOST])
    p_values = _p_values(losses, (draw.problems,) * len(losses), alpha)
    return _most_kept(draw, p_values <= delta)


def untested(draw: Draw, thresholds: Sequence[float], alpha: float, delta: float) -> int | None:
    """The loosest threshold that had few enough losses on the calibration set."""
    return _most_kept(draw, draw.drawn[:, LOST] <= alpha * draw.problems)


def per_step(draw: Draw, thresholds: Sequence[float], alpha: float, delta: float) -> int | None:
    """Tests of the share of accepted steps at or after an error, steps taken as independent."""
    tainted = tuple(int(x) for x in draw.drawn[:, TAINTED])
    p_values = _p_values(tainted, tuple(int(x) for x in draw.drawn[:, KEPT]), alpha)
    return _most_kept(draw, p_values <= delta / len(thresholds))


@lru_cache(maxsize=1 << 14)
def _p_values(
    losses: tuple[int, ...], trials: tuple[int, ...], alpha: float
) -> NDArray[np.float64]:
    """The p-value of "more than a share alpha is lost", for each threshold."""
    return np.asarray(binom.cdf(losses, trials, alpha))


METHODS: dict[str, Method] = {
    "product": product,
    "uncorrected": uncorrected,
    "untested": untested,
    "per_step": per_step,
}


def _most_kept(draw: Draw, able: NDArray[np.bool_]) -> int | None:
    shares = draw.drawn[:, KEPT] / draw.drawn[:, STEPS]
    places = [int(i) for i in np.flatnonzero(able)]
    return max(places, key=lambda i: (shares[i], i), default=None)


def violations(
    pool: Counts,
    thresholds: Sequence[float],
    problems: int,
    settings: Sequence[tuple[float, float]],
    count: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Per setting (alpha, delta) and method, how often the risk on the rest is above alpha.

    Args:
        pool: [N, K, 5].
        thresholds: K of them.
        problems: of a calibration set.
        settings: alpha and delta.
        count: of re-splits.
        seed: of the draws.
    """
    chosen: dict[tuple[float, float, str], list[tuple[int, float, float]]] = {
        (*setting, name): [] for setting in settings for name in METHODS
    }
    for draw in draws(pool, problems, count, seed):
        risks = draw.rest[:, LOST] / draw.left
        by_step = draw.rest[:, TAINTED] / np.maximum(draw.rest[:, KEPT], 1)
        for alpha, delta in settings:
            for name, method in METHODS.items():
                place = method(draw, thresholds, alpha, delta)
                if place is not None:
                    found = (place, float(risks[place]), float(by_step[place]))
                    chosen[alpha, delta, name].append(found)
    shares = pool.sum(0)[:, KEPT] / pool.sum(0)[:, STEPS]
    return [
        {"problems": problems, "alpha": alpha, "delta": delta, "method": name}
        | _row(found, alpha, count, shares, by_step=name == "per_step")
        for (alpha, delta, name), found in chosen.items()
    ]


def _row(
    found: Sequence[tuple[int, float, float]],
    alpha: float,
    count: int,
    shares: NDArray[np.float64],
    *,
    by_step: bool,
) -> dict[str, Any]:
    failed = sum(risk > alpha for _, risk, _ in found)
    low, high = proportion_confint(failed, count, method="beta")
    kept = [shares[place] for place, _, _ in found]
    row: dict[str, Any] = {
        "resplits": count,
        "chosen": len(found),
        "violations": failed,
        "rate": round(failed / count, 4),
        "rate_low": round(float(low), 4),
        "rate_high": round(float(high), 4),
        "kept": round(float(np.mean(kept)), 4) if kept else None,
    }
    if by_step:  # held against its own claim, which is about steps
        row["own_rate"] = round(sum(share > alpha for _, _, share in found) / count, 4)
    return row
