"""Consecutive rounds are independent: the law of what many rounds emit, with great power."""

from __future__ import annotations

import pytest

from lossless import chains, law
from stet.policies import BlockVerification, Exact, TokenPolicy

SEEDS = range(3)


@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
@pytest.mark.parametrize("block", [1, 3, 4])
def test_rounds_follow_the_law(policy: TokenPolicy, block: int):
    for seed in SEEDS:
        assert chains.p_value(policy, seed, block) > law.FAMILY_ALPHA / (6 * len(SEEDS))
