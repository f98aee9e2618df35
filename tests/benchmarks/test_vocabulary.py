"""What is done over a large vocabulary for a drafted token and a scored position: upper bounds."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"

DRAFTED = {"greedy": 2, "penalty": 3, "sampled": 4, "top_p": 7, "top_k": 7}
"""Rows of the vocabulary that are gone over for a token, whatever the policy."""

SCORED = {
    ("exact", "greedy"): 2,
    ("exact", "penalty"): 3,
    ("exact", "sampled"): 5.5,
    ("exact", "top_p"): 8.5,
    ("exact", "top_k"): 8.5,
    ("block", "sampled"): 12,
    ("top-k", "greedy"): 3,
    ("typical", "greedy"): 7,
    ("fuzzy", "greedy"): 14,
    ("fly", "greedy"): 4,
    ("confident", "greedy"): 5,
    ("cosd", "greedy"): 5,
    ("random", "greedy"): 2,
    ("random", "sampled"): 11,
    ("cospec", "greedy"): 5.5,
    ("cospec", "sampled"): 14,
}
"""The same for a position, by policy and sampling; the models agree on nothing."""

BYTES = {"greedy": 2.0, "penalty": 3.0, "sampled": 5.0}
"""Float32 rows that are allocated for a drafted token."""


@pytest.fixture(scope="module")
def setting():
    """The benchmark's own."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        from _vocabulary import Setting

        yield Setting()
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize(("policy", "sampling"), SCORED, ids=lambda name: name)
def test_few_passes_are_made_over_a_large_vocabulary(setting, policy: str, sampling: str) -> None:
    cost = setting.cost(policy, sampling)
    assert cost.draft_rows <= DRAFTED[sampling], cost.operations
    assert cost.score_rows <= SCORED[policy, sampling], cost.operations
    assert not {"sort", "argsort", "one_hot", "cummax", "cumsum"} & cost.operations.keys()
    if sampling in BYTES:
        assert cost.draft_bytes <= BYTES[sampling] * 4 * 151_936
