"""Refusals that step policies share."""

from __future__ import annotations

import math
from typing import Any

from stet.errors import OptionError
from stet.steps import ends_of


def check_drafting(policy: Any) -> None:
    """Refuse a step policy's settings of how candidates are written, where out of range.

    Raises:
        OptionError: naming the parameter.
    """
    for field in ("candidates", "target_candidates", "step_tokens"):
        value = getattr(policy, field)
        if not isinstance(value, int) or value < 1:
            raise OptionError(f"{field} is {value!r}; it must be a whole number from 1 on.")
    if not 0 <= policy.temperature < math.inf:
        raise OptionError(f"temperature is {policy.temperature}; it must not be negative.")
    if max(policy.candidates, policy.target_candidates) > 1 and policy.temperature == 0:
        raise OptionError("Several candidates need a temperature above 0: they would be equal.")
    if not 0 < policy.top_p <= 1:
        raise OptionError(f"top_p is {policy.top_p}; it must be above 0 and at most 1.")
    ends_of(policy.delimiter)
