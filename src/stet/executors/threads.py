"""Choosing how many threads a command runs its models with, by measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil
import torch

from stet.kernels.threads import usable_cores

if TYPE_CHECKING:
    from stet.engine.costs import Costs
    from stet.pair import Pair

SMALL = 64 * 2**20
"""Bytes of weights below which handing work to a second thread costs more than it saves."""

BETTER = 1.05
"""How much faster more threads must be, since others may want the cores, too."""


def set_threads(pair: Pair, wanted: int | None = None) -> int:
    """Set the threads of this process for a pair on a CPU.

    Only commands do this; the library uses what its user has set. What is measured is kept in the
    pair's profile, so that the next command need not measure.

    Args:
        pair: the models.
        wanted: as the user said; None: as `OMP_NUM_THREADS` says, or what is fastest.

    Returns:
        The number of threads.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ and _is_on_cpu(pair):
        torch.set_num_threads(_fastest(pair))
    return torch.get_num_threads()


def share_threads(pair: Pair, share: int) -> int:
    """Set the threads of a process that others share the machine's cores with.

    Args:
        pair: the models.
        share: its share of the cores.

    Returns:
        The number of threads: the share, or fewer where that is faster.
    """
    torch.set_num_threads(share)
    if _is_on_cpu(pair):
        torch.set_num_threads(_fastest(pair, share))
    return torch.get_num_threads()


def _is_on_cpu(pair: Pair) -> bool:
    return all(model.device.type == "cpu" for model in pair.models)


def _fastest(pair: Pair, most: int | None = None) -> int:
    """The fastest number of threads up to `most`; of nearly equal ones the smallest."""
    if sum(model.parameter_bytes for model in pair.models) < SMALL:
        return 1
    found: dict[int, float] = {}
    for count in _candidates(min(most or usable_cores(), usable_cores())):
        costs = pair.costs_with(count)
        if costs is None or costs.disturbed:
            # Beside other work fewer threads look better than they are.
            return torch.get_num_threads()
        found[count] = _round(costs)
        if found[count] > 1.5 * min(found.values()):
            break  # with fewer it only gets slower
    least = min(found.values())
    return min(count for count, seconds in found.items() if seconds < BETTER * least)


def _candidates(most: int) -> Iterator[int]:
    """So many, one thread for each physical core, and powers of two below; the most first."""
    halves = {2**n for n in range(most.bit_length())}
    physical = psutil.cpu_count(logical=False) or most
    yield from sorted({most, min(physical, most), *halves}, reverse=True)


def _round(costs: Costs) -> float:
    """Seconds of a round of usual length."""
    return costs.target_pass(5) + 4 * costs.draft_pass(1)
