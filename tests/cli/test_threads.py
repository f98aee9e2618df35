"""How many threads a command uses: measured, unless its user says so."""

from __future__ import annotations

import pytest
import torch

from stet.engine.costs import Costs
from stet.executors import threads
from stet.executors.threads import set_threads, share_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical: 8)
    yield
    torch.set_num_threads(before)


def measure(pair, seconds, disturbed=False):
    pair.asked_for = []

    def costs_with(count):
        pair.asked_for.append(count)
        return Costs({1: 0.001}, {1: seconds[count]}, disturbed)

    pair.costs_with = costs_with


def test_the_fastest_is_taken_and_of_nearly_equal_ones_the_smallest(pair):
    measure(pair, {8: 1.3, 4: 1.0, 2: 1.03, 1: 1.9})
    assert set_threads(pair) == 2
    measure(pair, {8: 1.0, 4: 1.2, 2: 2.0, 1: 4.0})
    assert set_threads(pair) == 8
    assert pair.asked_for == [8, 4, 2], "one thread would only be slower"


def test_what_the_user_says_is_not_measured(pair, monkeypatch):
    measure(pair, {})
    assert set_threads(pair, 3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set_threads(pair) == 3
    assert not pair.asked_for


def test_beside_other_work_nothing_is_chosen(pair):
    before = torch.get_num_threads()
    measure(pair, {8: 4.0, 4: 3.0, 2: 2.0, 1: 1.0}, disturbed=True)
    assert set_threads(pair) == before


def test_a_small_model_runs_on_one_thread(pair):
    measure(pair, {})
    pair.target.parameter_bytes = 10**6
    assert set_threads(pair) == 1


def test_of_cores_that_are_shared_no_more_than_the_share_are_tried(pair, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # as Ray sets it in its workers
    measure(pair, {2: 1.2, 1: 1.9})
    assert share_threads(pair, 2) == 2
    assert pair.asked_for == [2, 1]
    measure(pair, {4: 1.0, 2: 1.03, 1: 1.9})
    assert share_threads(pair, 4) == 2
    measure(pair, {3: 1.0, 2: 1.0, 1: 1.0}, disturbed=True)
    assert share_threads(pair, 3) == 3


def test_a_share_that_is_no_power_of_two_is_tried_too(pair):
    measure(pair, {6: 1.0, 4: 1.2, 2: 2.0, 1: 4.0})
    assert share_threads(pair, 6) == 6
    assert pair.asked_for == [6, 4, 2]
