"""What is sampled inside vLLM follows the target's own distribution, under lossless policies.

vLLM's own sampled speculation on a CPU is no reference: it is wrong there.
"""

from __future__ import annotations

import pytest
from laws import SAMPLES, deviations

from stet.policies import resolve
from stet_vllm.desk import usable


@pytest.mark.parametrize("policy", ["exact", "block"])
def test_samples_follow_the_target(policy):
    assert usable(resolve(policy)).lossless
    assert all(abs(z) < 4.5 for z in deviations(policy, SAMPLES))


def test_the_test_can_tell():
    """A policy that is not lossless fails it by far."""
    assert max(deviations("ensemble", SAMPLES)) > 20
