"""Checks of parameters that several policies share."""

from __future__ import annotations

import math
from typing import Any

from stet.core.errors import OptionError
from stet.core.steps import ends_of


def check_drafting(policy: Any) -> None:
    """Check the parameters by which a step policy's candidates are written.

    Raises:
        OptionError: a parameter is out of range; the message names it.
    """
    check_count(policy, "candidates", "target_candidates", "step_tokens")
    check_count(policy, "loop_after", least=0)
    if not 0 <= policy.temperature < math.inf:
        raise OptionError(f"temperature is {policy.temperature}; it must not be negative.")
    if max(policy.candidates, policy.target_candidates) > 1 and policy.temperature == 0:
        raise OptionError("Several candidates need a temperature above 0: they would be equal.")
    if not 0 < policy.top_p <= 1:
        raise OptionError(f"top_p is {policy.top_p}; it must be above 0 and at most 1.")
    ends_of(policy.delimiter)


def check_share(policy: Any, *names: str) -> None:
    """Check that parameters are numbers between 0 and 1.

    Raises:
        OptionError: one is not; the message names it.
    """
    for name in names:
        value = getattr(policy, name)
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise OptionError(f"{name} is {value!r}; it must be between 0 and 1.")


def check_count(policy: Any, *names: str, least: int = 1) -> None:
    """Check that parameters are whole numbers of at least `least`.

    Raises:
        OptionError: one is not; the message names it.
    """
    for name in names:
        value = getattr(policy, name)
        if not isinstance(value, int) or value < least:
            raise OptionError(f"{name} is {value!r}; it must be a whole number from {least} on.")
