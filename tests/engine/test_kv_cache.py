"""The cache's storage: sizes, growth, copies, zeroes."""

from __future__ import annotations

import pytest
import torch

from stet.core.errors import CapacityError
from stet.engine.attention import AlignedMasks, additive_mask
from stet.engine.kv_cache import KVCache, LayerShape
from stet.engine.masks import WIDEST

pytestmark = pytest.mark.unit

SHAPES = [
    LayerShape(4, 2, 8, 8, torch.float32, torch.device("cpu")),
    LayerShape(4, 1, 8, 16, torch.float32, torch.device("cpu"), window=4),
]


def test_shapes_and_bytes() -> None:
    cache = KVCache(SHAPES, rows=3, max_length=1000, grow=True)
    assert cache.capacity == KVCache.FIRST_CAPACITY
    slots = cache.capacity + 1
    assert [tuple(k.shape) for k in cache.keys] == [(3, 2, slots, 8), (3, 1, slots, 8)]
    assert [tuple(v.shape) for v in cache.values] == [(3, 2, slots, 8), (3, 1, slots, 16)]
    assert cache.nbytes == 3 * slots * sum(s.bytes_per_token for s in SHAPES)


def test_without_growth_all_is_allocated_at_once() -> None:
    cache = KVCache(SHAPES, rows=1, max_length=700, grow=False)
    assert cache.capacity == 700
    assert not cache.ensure(700)


def test_growth_keeps_content_and_zeroes_the_rest() -> None:
    cache = KVCache(SHAPES, rows=2, max_length=1000, grow=True)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(1)
        tensor[:, :, -1] = float("nan")  # the reserved slot takes pads of any kind
    old = cache.capacity
    assert cache.ensure(old + 1)
    assert cache.capacity == 2 * old
    for tensor in (*cache.keys, *cache.values):
        assert (tensor[:, :, :old] == 1).all()
        assert not tensor[:, :, old:].any()
    assert cache.ensure(1000)
    assert cache.capacity == 1000
    with pytest.raises(CapacityError, match="1001 tokens"):
        cache.ensure(1001)


def test_growth_that_runs_out_of_memory_leaves_what_there_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = KVCache(SHAPES, rows=2, max_length=1000, grow=True)
    old, asked = cache.capacity, 0
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
            cache.ensure(old + 1)
    assert cache.capacity == old
    for tensor in (*cache.keys, *cache.values):
        assert (tensor[:, :, :old] == 1).all()
        tensor[:, :, old] = float("nan")  # where pads go
    assert cache.ensure(old + 1)
    for tensor in (*cache.keys, *cache.values):
        assert tensor.shape[2] == cache.capacity + 1 == 2 * old + 1
        assert (tensor[:, :, :old] == 1).all()
        assert not tensor[:, :, old:].any()


def test_copy_and_clear_touch_only_their_slots() -> None:
    cache = KVCache(SHAPES, rows=3, max_length=20, grow=True)
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    before = [t.clone() for t in (*cache.keys, *cache.values)]
    cache.copy(0, [1, 2], 5)
    cache.clear(2, 3, 7)
    for tensor, old in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(tensor[0], old[0])
        assert torch.equal(tensor[1, :, :5], old[0, :, :5])
        assert torch.equal(tensor[1, :, 5:], old[1, :, 5:])
        assert torch.equal(tensor[2, :, :3], old[0, :, :3])
        assert not tensor[2, :, 3:7].any()
        assert torch.equal(tensor[2, :, 7:], old[2, :, 7:])


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
