"""The population stability index and its significance: against scipy, and by simulation."""

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency

from stet.serve.stability import compare


def test_the_index_is_as_it_is_defined():
    rng = np.random.default_rng(0)
    now, then = rng.multinomial(9000, [0.1] * 10), rng.multinomial(7000, [*[0.05] * 9, 0.55])
    p, q = now / now.sum(), then / then.sum()
    found = compare(now.astype(float), 9000.0, then.astype(float), 7000.0)
    plain = float(((p - q) * np.log(p / q)).sum())
    assert found.psi == pytest.approx(plain - 9 * (1 / 9000 + 1 / 7000), rel=0.005)


def test_the_test_is_pearsons():
    now, then = np.array([30.0, 50.0, 20.0]), np.array([90.0, 110.0, 100.0])
    found = compare(now, 100.0, then, 300.0)
    expected = chi2_contingency(np.stack([now, then]), correction=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    # Values that are worth a quarter of their number are less sure.
    assert compare(now, 25.0, then, 75.0).p_value == pytest.approx(
        chi2.sf(expected.statistic / 4, 2)
    )


def test_without_a_change_the_index_is_near_zero_whatever_the_samples():
    rng = np.random.default_rng(1)
    for n in (60, 300, 3000):
        raw, alarms = [], 0
        for _ in range(400):
            now, then = rng.multinomial(n, [0.1] * 10), rng.multinomial(1000, [0.1] * 10)
            found = compare(now.astype(float), float(n), then.astype(float), 1000.0)
            raw.append(found.psi)
            alarms += found.p_value < 0.01
        assert np.mean(raw) < 0.06 * (60 / n) + 0.005
        assert alarms <= 12


def test_bins_in_which_nothing_ever_is_do_not_count():
    now, then = np.array([40.0, 0.0, 60.0]), np.array([55.0, 0.0, 45.0])
    found = compare(now, 100.0, then, 100.0)
    assert found == compare(now[[0, 2]], 100.0, then[[0, 2]], 100.0)
    alone = compare(np.array([0.0, 7.0]), 7.0, np.array([0.0, 9.0]), 9.0)
    assert (alone.psi, alone.p_value) == (0.0, 1.0)
    # One that is empty on one side does, and is no infinite difference.
    assert 0 < compare(np.array([0.0, 50.0]), 50.0, np.array([25.0, 25.0]), 50.0).psi < 5
