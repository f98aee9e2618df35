"""The memory plan."""

from __future__ import annotations

import dataclasses

import pytest

from families import build
from stet.core.errors import MemoryPlanError
from stet.core.row import PAGE
from stet.engine.runner import Runner
from stet.models import memory, plan_memory, prepare_model

pytestmark = pytest.mark.unit


def test_the_cache_is_planned_exactly() -> None:
    target = prepare_model(build("llama"), name="big", self_check=False)
    draft = prepare_model(build("gpt2"), name="small", role="draft", self_check=False)
    plan = plan_memory(target, draft, max_rows=3, max_length=200, block=5)
    for part, model in zip(plan.models, (target, draft), strict=True):
        assert part.cache == Runner(model, max_rows=3, max_length=200).cache.nbytes
        assert part.weights == model.parameter_bytes
        assert part.workspace > 3 * 6 * model.vocab_size * 4
    assert plan.total == sum(m.weights + m.cache + m.workspace for m in plan.models)
    assert plan.available["cpu"] > 0
    plan.check()


def test_it_grows_with_rows_and_length() -> None:
    target = prepare_model(build("llama"), self_check=False)
    small = plan_memory(target, None, max_rows=2, max_length=100, block=2)
    rows = plan_memory(target, None, max_rows=4, max_length=100, block=2)
    length = plan_memory(target, None, max_rows=2, max_length=200, block=2)
    page = PAGE * sum(layer.bytes_per_token for layer in target.layers)  # that nobody holds
    assert rows.models[0].cache - page == 2 * (small.models[0].cache - page)
    assert small.models[0].cache < length.models[0].cache
    assert small.models[0].workspace < rows.models[0].workspace


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    target = prepare_model(build("llama"), self_check=False)
    plan = plan_memory(target, None, max_rows=8, max_length=500, block=4)
    part = plan.models[0]
    room = part.workspace + 3 * part.cache // 8
    with pytest.raises(MemoryPlanError, match="use max_rows=3 or a shorter max_length"):
        dataclasses.replace(plan, available={"cpu": room}).check()
    with pytest.raises(MemoryPlanError, match="a smaller dtype or smaller models"):
        dataclasses.replace(plan, available={"cpu": 10}).check()
    dataclasses.replace(plan, available={"cpu": plan.needed("cpu")}).check()


def test_the_table() -> None:
    target = prepare_model(build("llama"), name="big", self_check=False)
    table = plan_memory(target, None, max_rows=2, max_length=100, block=2).describe()
    assert {len(row) for row in table} == {3}
    assert ["target (big)", "weights", memory.readable(target.parameter_bytes)] in table
    assert [row[1] for row in table[-2:]] == ["still needed on cpu", "available on cpu"]


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e12, "3.0 TB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert memory.readable(size) == text
