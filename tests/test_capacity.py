"""The simulation of a server, where its result can be computed by hand."""

from __future__ import annotations

import math

import pytest

from stet.doctor.capacity import Asked, Served, Serving, capacity, serve_clients, serve_rate
from stet.engine.costs import Costs

COSTS = Costs(draft={1: 0.001, 64: 0.001}, target={1: 0.010, 100: 0.010})
ALIKE = [Asked(prompt=10, answer=20)] * 200


def test_one_client_of_the_target_alone():
    served = serve_clients(Serving(COSTS, 0, 1.0), ALIKE, 1)
    # A prompt is a pass, each token is one.
    assert served.requests_per_second == pytest.approx(1 / 0.21)
    assert served.tokens_per_second == pytest.approx(20 / 0.21)
    assert served.first_token == pytest.approx((0.02, 0.02))
    assert served.whole == pytest.approx((0.21, 0.21))


def test_speculation_pays_by_its_tokens_per_pass():
    alone = serve_clients(Serving(COSTS, 0, 1.0), ALIKE, 1)
    drafted = serve_clients(Serving(COSTS, 4, 4.0), ALIKE, 1)
    # 5 rounds of 14 ms, and both models read the prompt.
    assert drafted.requests_per_second == pytest.approx(1 / (5 * 0.014 + 0.011))
    assert drafted.requests_per_second > 2 * alone.requests_per_second


def test_requests_share_passes_up_to_the_batch():
    four = serve_clients(Serving(COSTS, 0, 1.0), ALIKE, 4)
    eight = serve_clients(Serving(COSTS, 0, 1.0, max_batch=4), ALIKE, 8)
    assert (
        four.tokens_per_second
        > 3 * serve_clients(Serving(COSTS, 0, 1.0), ALIKE, 1).tokens_per_second
    )
    assert eight.requests_per_second == pytest.approx(four.requests_per_second, rel=0.05)
    assert eight.first_token[1] > four.first_token[1]  # half of them wait


def test_few_requests_meet_nobody():
    served = serve_rate(Serving(COSTS, 0, 1.0), ALIKE, rate=0.01)
    assert served.whole == pytest.approx((0.21, 0.21))


def test_too_many_requests_pile_up():
    most = serve_clients(Serving(COSTS, 0, 1.0, max_batch=8), ALIKE, 8).requests_per_second
    served = serve_rate(Serving(COSTS, 0, 1.0, max_batch=8), ALIKE, rate=10 * most)
    assert served.requests_per_second == pytest.approx(most, rel=0.1)
    assert served.first_token[1] > 10 * 0.02


def test_capacity_is_the_rate_at_which_requests_are_still_in_time():
    serving = Serving(COSTS, 0, 1.0, max_batch=8)
    most = serve_clients(serving, ALIKE, 8).requests_per_second
    found = capacity(serving, ALIKE, first_token=0.2, whole=1.0)
    assert 0.3 * most < found <= most
    within: Served = serve_rate(serving, ALIKE, found)
    assert within.first_token[1] <= 0.2
    assert capacity(serving, ALIKE, first_token=0.2, whole=0.1) == 0.0
    assert capacity(serving, ALIKE, first_token=math.inf, whole=math.inf) > 0.97 * most
