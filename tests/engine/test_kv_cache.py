"""The cache's storage: sizes, growth, copies, zeroes."""

from __future__ import annotations

import pytest
import torch

from stet.core.errors import CapacityError
from stet.core.row import PAGE
from stet.engine.attention import AlignedMasks, additive_mask
from stet.engine.kv_cache import KVCache, LayerShape
from stet.engine.masks import WIDEST

pytestmark = pytest.mark.unit

SHAPES = [
    LayerShape(4, 2, 8, 8, torch.float32, torch.device("cpu")),
    LayerShape(4, 1, 8, 16, torch.float32, torch.device("cpu"), window=4),
]


def test_shapes_and_bytes() -> None:
    cache = KVCache(SHAPES, most=100, first=10)
    slots = 10 * PAGE
    assert [tuple(k.shape) for k in cache.keys] == [(slots, 2, 8), (slots, 1, 8)]
    assert [tuple(v.shape) for v in cache.values] == [(slots, 2, 8), (slots, 1, 16)]
    assert cache.nbytes == 10 * cache.bytes_per_page
    assert cache.nbytes == slots * sum(s.bytes_per_token for s in SHAPES)


def test_without_growth_all_is_allocated_at_once() -> None:
    assert KVCache(SHAPES, most=70).pages == 70
    assert KVCache(SHAPES, most=5, first=10).pages == 5


def test_growth_keeps_content_and_zeroes_the_rest() -> None:
    cache = KVCache(SHAPES, most=50, first=10)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(1)
    cache.grow(11)
    assert cache.pages == 20
    for tensor in (*cache.keys, *cache.values):
        assert (tensor[: 10 * PAGE] == 1).all()
        assert not tensor[10 * PAGE :].any()
    cache.grow(50)
    assert cache.pages == 50
    with pytest.raises(CapacityError, match="51 are needed"):
        cache.grow(51)


def test_growth_that_runs_out_of_memory_leaves_what_there_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = KVCache(SHAPES, most=50, first=10)
    asked = 0
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(1)
    zeros = torch.zeros

    def limited(*shape: object, **rest: object) -> torch.Tensor:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return zeros(*shape, **rest)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(torch, "zeros", limited)
        with pytest.raises(RuntimeError, match="can't allocate"):
            cache.grow(11)
    assert cache.pages == 10
    for tensor in (*cache.keys, *cache.values):
        assert (tensor[: 10 * PAGE] == 1).all()
    cache.grow(11)
    for tensor in (*cache.keys, *cache.values):
        assert tensor.shape[0] == 20 * PAGE
        assert (tensor[: 10 * PAGE] == 1).all()
        assert not tensor[10 * PAGE :].any()


@pytest.mark.parametrize(("sources", "targets"), [([1], [4]), ([1, 1, 2], [3, 4, 5]), ([], [])])
def test_copies_touch_only_their_pages(sources: list[int], targets: list[int]) -> None:
    cache = KVCache(SHAPES, most=7)
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    before = [t.clone().unflatten(0, (-1, PAGE)) for t in (*cache.keys, *cache.values)]
    cache.copy(sources, targets)
    for tensor, old in zip((*cache.keys, *cache.values), before, strict=True):
        paged = tensor.unflatten(0, (-1, PAGE))
        for page in range(7):
            came_from = dict(zip(targets, sources, strict=True)).get(page, page)
            assert torch.equal(paged[page], old[came_from])


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("groups", [1, 2])
def test_masks_say_who_sees_whom(window: int | None, groups: int) -> None:
    positions = torch.tensor([[3, 4, 5], [0, 1, 1]])
    mask = additive_mask(positions, torch.arange(7), groups, window, torch.float32)
    assert mask.shape == (2, 1, groups * 3, 7)
    for b in range(2):
        for g in range(groups):
            for t in range(3):
                at = int(positions[b, t])
                seen = [s for s in range(7) if s <= at and (window is None or s > at - window)]
                assert (mask[b, 0, 3 * g + t] == 0).nonzero().flatten().tolist() == seen
                assert mask[b, 0, 3 * g + t].isneginf().sum() == 7 - len(seen)


def test_masks_of_an_accelerator_begin_where_it_can_read_them():
    masks = AlignedMasks(40, torch.float32, torch.device("meta"))
    assert masks.get(3, 16, 1, None).storage_offset() == 0
    assert masks.get(3, 16, 1, None).is_contiguous()


@pytest.mark.parametrize("count", [1, 3, WIDEST + 1])
@pytest.mark.parametrize("window", [None, 2])
def test_aligned_masks_equal_masks_by_position(count: int, window: int | None) -> None:
    masks = AlignedMasks(40, torch.float32, torch.device("cpu"))
    for length in (count, count + 1, 30, 40):
        wanted = additive_mask(
            torch.arange(length - count, length)[None],
            torch.arange(length),
            2,
            window,
            torch.float32,
        )
        assert torch.equal(masks.get(count, length, 2, window), wanted)
