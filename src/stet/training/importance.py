"""Permutation importance: what an arbiter loses when the values of a feature are shuffled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stet.arbiter import Network
from stet.training.branches import Branches

REPEATS = 20


def importance(
    network: Network, branches: Branches, sizes: Sequence[int], cost: float, seed: int = 0
) -> list[float]:
    """For each feature, right answers lost per 100 mismatches when its values are shuffled.

    Args:
        network: the arbiter's network.
        branches: the branches among which values are shuffled, one feature at a time.
        sizes: the size of each feature.
        cost: the cost of a rejected mismatch that the arbiter was fitted with.
        seed: seed of the shuffling.
    """
    generator = torch.Generator().manual_seed(seed)
    advantage = branches.advantage(cost)

    def worth(features: Tensor) -> float:
        with torch.no_grad():
            return float((advantage * (network(features) > 0)).mean())

    whole, start, found = worth(branches.features), 0, []
    for size in sizes:
        lost = 0.0
        for _ in range(REPEATS):
            shuffled = branches.features.clone()
            order = torch.randperm(len(branches), generator=generator)
            shuffled[:, start : start + size] = shuffled[order, start : start + size]
            lost += whole - worth(shuffled)
        found.append(100 * lost / REPEATS)
        start += size
    return found
