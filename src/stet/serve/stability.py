"""How far apart two samples are: the population stability index, and whether it may be chance.

Sources: N. Siddiqi, "Credit Risk Scorecards", Wiley 2006, for the index and its bounds of 0.1 and
0.25; B. Yurdakul, "Statistical Properties of Population Stability Index", dissertation, Western
Michigan University 2018, for what it is without a change: chi-square, times 1/n + 1/m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from stet.policies.tally import Numbers


@dataclass(frozen=True, slots=True)
class Change:
    """How the values of a sample differ from those of a reference.

    Attributes:
        psi: the population stability index, less what it would be on average by chance alone; at
            least 0.
        p_value: the probability of as large a difference (Pearson's chi-square) where there is
            none.
    """

    psi: float
    p_value: float


def compare(counts: Numbers, effective: float, known: Numbers, known_effective: float) -> Change:
    """Compare two samples by bin.

    Args:
        counts: values of the sample in each bin.
        effective: the number of independent values that they are worth, above 0.
        known: values of the reference in each bin.
        known_effective: the number of independent values that these are worth, above 0.
    """
    used = (counts > 0) | (known > 0)
    p, q = counts[used] / counts.sum(), known[used] / known.sum()
    bins, noise = len(p), 1 / effective + 1 / known_effective
    if bins < 2:
        return Change(0.0, 1.0)
    # Half a value more in each bin, so that an empty one is no infinite difference.
    smooth_p = (p * effective + 0.5) / (effective + bins / 2)
    smooth_q = (q * known_effective + 0.5) / (known_effective + bins / 2)
    psi = float(((smooth_p - smooth_q) * np.log(smooth_p / smooth_q)).sum())
    pooled = (effective * p + known_effective * q) / (effective + known_effective)
    chi_square = float(((p - q) ** 2 / pooled).sum()) / noise
    return Change(max(psi - (bins - 1) * noise, 0.0), float(chdtrc(bins - 1, chi_square)))
