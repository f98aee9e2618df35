"""The engine's random numbers: uniform, repeatable, and independent along every axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stet.core.blocks import DRAFT
from stet.engine.uniforms import uniforms
from stet.policies import ACCEPT, NEXT

ALPHA = 1e-4


def table(seeds, rounds, first: int = 0, count: int = 1) -> np.ndarray:
    return uniforms(torch.tensor(seeds), torch.tensor(rounds), first, count).numpy()


N = 1 << 15
AXES = {
    "seeds": table(range(N), [0] * N)[:, 0],
    "seeds far apart": table([(n * 2**40) % 2**62 for n in range(N)], [3] * N)[:, 0],
    "negative seeds": table([-1 - n for n in range(N)], [1] * N)[:, 0],
    "rounds": table([7] * N, range(N))[:, 0],
    "slots": table([7], [5], 0, N)[0],
    "slots of acceptance": table([7], [5], ACCEPT, N)[0],
    "diagonal": table(range(N), range(N))[:, 0],
    "antidiagonal": table(range(N), range(N, 0, -1))[:, 0],
}


@pytest.mark.parametrize("axis", AXES)
def test_uniform_along_every_axis(axis: str):
    values = AXES[axis]
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.chisquare(np.histogram(values, 256, (0, 1))[0]).pvalue > ALPHA
    assert stats.kstest(values, "uniform").pvalue > ALPHA
    # Low bits too: multiples of 2**-24, and the last of these bits is as random as the first.
    last_bits = (values * 2**24).astype(np.int64) & 15
    assert stats.chisquare(np.bincount(last_bits, minlength=16)).pvalue > ALPHA


@pytest.mark.parametrize("axis", AXES)
def test_no_serial_correlation_along_any_axis(axis: str):
    values = AXES[axis] - 0.5
    for lag in (1, 2, 3, 7, 64):
        correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
        assert abs(correlation) * np.sqrt(N) < 4.5, lag
    # Pairs fill the square evenly, which catches more than linear dependence.
    pairs, _, _ = np.histogram2d(AXES[axis][:-1:2], AXES[axis][1::2], 16, [(0, 1)] * 2)
    assert stats.chisquare(pairs.ravel()).pvalue > ALPHA


def test_the_uses_within_a_round_and_neighbouring_rounds_are_independent():
    seeds = list(range(N // 8))
    columns = [
        table(seeds, [r] * len(seeds), first, 3)
        for r in range(3)
        for first in (DRAFT, ACCEPT, NEXT)
    ]
    values = np.concatenate(columns, 1)
    correlations = np.corrcoef(values.T)
    off_diagonal = correlations[~np.eye(len(correlations), dtype=bool)]
    assert np.abs(off_diagonal).max() * np.sqrt(len(seeds)) < 4.7


def test_keys_do_not_collide():
    # A sum or a xor of seed and round would make (1, 2) and (2, 1) the same request.
    seeds, rounds = np.meshgrid(np.arange(256), np.arange(256))
    values = table(seeds.ravel().tolist(), rounds.ravel().tolist(), 0, 2)
    pairs = {tuple(row) for row in values.tolist()}
    assert len(pairs) == 256 * 256


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10_000)), min_size=1, max_size=8
    ),
    st.integers(0, 1 << 20),
    st.integers(1, 20),
)
def test_a_request_gets_the_same_numbers_in_any_company(keys: list, first: int, count: int):
    together = table([s for s, _ in keys], [r for _, r in keys], first, count)
    for row, (seed, number) in enumerate(keys):
        assert (table([seed], [number], first, count)[0] == together[row]).all()
    # However many are asked for, a slot's number is its own.
    wider = table([keys[0][0]], [keys[0][1]], first, count + 5)[0]
    assert (wider[:count] == together[0]).all()


def test_numbers_stay_what_they_were():
    # Recorded texts are repeated by their seed, so the numbers are part of the contract.
    found = uniforms(torch.tensor([0, 1, -5]), torch.tensor([0, 7, 2]), 3, 2)
    recorded = [[15681891, 12918274], [9104922, 7354732], [6360494, 16498312]]
    assert (found * 2**24).long().tolist() == recorded
