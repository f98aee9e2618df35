"""How the blocks of a round are divided into passes of the target."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from stet.core.draft_length import FixedLength
from stet.core.limits import Limits
from stet.engine import scoring
from stet.engine.costs import Costs
from stet.policies import Exact
from tiny import engine, llama, near, request, run

pytestmark = pytest.mark.unit


def of(*lengths: int) -> Any:
    return [SimpleNamespace(block=SimpleNamespace(length=n)) for n in lengths]


def cost(passes: list[list[int]], lengths: tuple[int, ...], spare: float) -> float:
    return sum(spare + len(some) * (max(lengths[i] for i in some) + 1) for some in passes)


def least(lengths: tuple[int, ...], spare: float) -> float:
    """The least cost of any way of putting blocks into passes."""
    ways = product(range(len(lengths)), repeat=len(lengths))
    return min(
        cost([[i for i, p in enumerate(way) if p == n] for n in set(way)], lengths, spare)
        for way in ways
    )


@pytest.mark.parametrize("spare", [0.0, 2.0, 7.5, 100.0])
@pytest.mark.parametrize(
    "lengths", [(0,), (3, 3, 3), (0, 5, 0, 5, 12), (1, 2, 3, 4, 5), (40, 0, 0, 1, 0), (7, 9, 8, 0)]
)
def test_no_other_division_costs_less(lengths, spare):
    passes = list(scoring._passes(of(*lengths), 10_000, spare))
    assert sorted(i for some in passes for i in some) == list(range(len(lengths)))
    assert all(some == sorted(some) for some in passes)  # neighbours in the cache stay together
    assert cost(passes, lengths, spare) == pytest.approx(least(lengths, spare))


def test_without_costs_all_are_padded_and_a_pass_has_its_limit():
    assert list(scoring._passes(of(0, 12, 0, 3), 10_000, None)) == [[0, 1, 2, 3]]
    assert list(scoring._passes(of(0, 12, 0, 3), 26, None)) == [[0, 1], [2, 3]]
    assert list(scoring._passes(of(30, 30, 2), 10, 0.0)) == [[2], [0], [1]]


def test_texts_are_the_same_and_fewer_positions_are_computed(monkeypatch):
    target = llama()
    models = target, near(target, 0.25)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [2, 7, 1]]
    blocks = (1, 2, 9, 14)

    def texts(costs: Costs | None) -> tuple[list[list[int]], int, int]:
        machine = engine(*models, rows=4)
        machine.costs = lambda: costs
        runner = machine.runners["target"]
        forward, widths = runner.forward, []

        def counting(rows, tokens, *more, **options):
            widths.append(tokens.numel())
            return forward(rows, tokens, *more, **options)

        monkeypatch.setattr(runner, "forward", counting)
        asked = [
            request(p, Exact(), Limits(max_new_tokens=40, draft_length=FixedLength(n)))
            for p, n in zip(prompts, blocks, strict=True)
        ]
        return run(machine, asked), sum(widths), len(widths)

    padded, positions, passes = texts(None)
    found, fewer, more = texts(Costs({1: 1.0}, {1: 1.0, 13: 7.0}))
    assert found == padded
    assert fewer < 0.8 * positions
    assert more > passes
    # A pass that costs as much whatever is in it is made once.
    assert texts(Costs({1: 1.0}, {1: 1.0, 13: 1.0}))[1:] == (positions, passes)
