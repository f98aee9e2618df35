"""The memory plan."""

from __future__ import annotations

import dataclasses
import re

import pytest

from families import build
from stet.core.errors import MemoryPlanError, OptionError
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
    room = part.workspace + 14 * part.cache // plan.pages
    with pytest.raises(MemoryPlanError, match="use max_length=160 or less, or fewer max_rows"):
        dataclasses.replace(plan, available={"cpu": room}).check()
    with pytest.raises(MemoryPlanError, match="a smaller dtype or smaller models"):
        dataclasses.replace(plan, available={"cpu": 10}).check()
    dataclasses.replace(plan, available={"cpu": plan.needed("cpu")}).check()


def test_where_not_all_rows_fit_the_caches_take_most_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = prepare_model(build("llama"), self_check=False)
    whole = plan_memory(target, None, max_rows=8, max_length=320, block=4)
    assert whole.tokens == 8 * 320
    part = whole.models[0]
    page = part.cache // whole.pages

    def plan(pages: float, **more: int) -> memory.MemoryPlan:
        free = part.workspace + int(pages * page)
        monkeypatch.setattr(memory, "available_bytes", lambda _: free)
        return plan_memory(target, None, max_rows=8, max_length=320, block=4, **more)

    assert plan(whole.pages).pages == whole.pages
    found = plan(100)
    assert found.pages == 80
    found.check()
    # One sequence of the full length at least, or a refusal.
    least = plan(21 + memory.SPARE_PAGES)
    assert least.tokens == 320 + memory.SPARE_PAGES * PAGE
    least.check()
    with pytest.raises(MemoryPlanError, match="use max_length=304 or less"):
        plan(20 + memory.SPARE_PAGES).check()


def test_the_memory_of_caches_can_be_given() -> None:
    target = prepare_model(build("llama"), self_check=False)
    draft = prepare_model(build("gpt2"), role="draft", self_check=False)
    whole = plan_memory(target, draft, max_rows=8, max_length=320, block=4)
    page = sum(part.cache for part in whole.models) // whole.pages
    sizes = {"max_rows": 8, "max_length": 320, "block": 4}
    given = plan_memory(target, draft, cache_memory=50 * page + 1, **sizes)
    assert given.pages == 50
    assert sum(part.cache for part in given.models) == 50 * page
    assert plan_memory(target, draft, cache_memory=10**12, **sizes).pages == whole.pages
    with pytest.raises(MemoryPlanError, match="too little for one sequence of 320 tokens"):
        plan_memory(target, draft, cache_memory=20 * page, **sizes)


@pytest.mark.parametrize(
    ("given", "size"), [(12, 12), ("2GB", 2_000_000_000), ("512 MiB", 512 * 2**20), ("80", 80)]
)
def test_a_size_in_memory(given: int | str, size: int) -> None:
    assert memory.size_of(given) == size


@pytest.mark.parametrize("given", ["much", "-3", "2 bananas"])
def test_what_is_no_size_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match=re.escape(repr(given))):
        memory.size_of(given)


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
