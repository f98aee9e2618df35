"""The attention kernel: what it computes, and that a query's bits are its own."""

from __future__ import annotations

import pytest
import torch

from stet.core.row import PAGE
from stet.kernels.attention import NativePass, serves

pytestmark = pytest.mark.skipif(not serves([]), reason="the kernel cannot be compiled here")

TYPES = {"float32": (torch.float32, 2e-5), "bfloat16": (torch.bfloat16, 1e-2)}
SLOTS = 700
ROWS = 3


def cache(dtype: torch.dtype, key_heads: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, ROWS, key_heads, SLOTS, size, generator=made).to(dtype)
    return keys, values


PAGES = -(-SLOTS // PAGE)
PLACES = torch.randperm(ROWS * PAGES, generator=torch.Generator().manual_seed(9)) + 1
"""The pages of all rows, in an order that has nothing to do with theirs."""


def pages_of(row: int) -> list[int]:
    return PLACES[row * PAGES : (row + 1) * PAGES].tolist()


def paged(rows: torch.Tensor) -> torch.Tensor:
    """Rows [ROWS, key heads, SLOTS, size] as a cache has them, [slots, key heads, size]."""
    store = rows.new_zeros((ROWS * PAGES + 1) * PAGE, rows.shape[1], rows.shape[3])
    for row in range(ROWS):
        slots = torch.tensor([p * PAGE + o for p in pages_of(row) for o in range(PAGE)])[:SLOTS]
        store[slots] = rows[row].transpose(0, 1)
    return store


def attend(rows, starts, ends, width, query, keys, values, *how) -> torch.Tensor:
    """What the kernel computes of rows in the pages of a cache."""
    own = NativePass([pages_of(row) for row in rows], starts, ends, width)
    return own(query, paged(keys), paged(values), *how)


def reference(query, keys, values, position, scaling, window, softcap) -> torch.Tensor:
    """A query [heads, size] of one row, over keys and values [key heads, slots, size]."""
    groups = query.shape[0] // keys.shape[0]
    first = 0 if window is None else max(0, position + 1 - window)
    seen = slice(first, position + 1)
    key, value = (t[:, seen].double().repeat_interleave(groups, 0) for t in (keys, values))
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (key @ query.double()[..., None])[..., 0] * factor
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.softmax(-1)[:, None] @ value)[:, 0]


CASES = [
    (4, 4, 32, None, None, None),
    (6, 2, 64, None, None, None),
    (14, 2, 16, 0.3, None, None),
    (4, 1, 48, None, 100, None),
    (4, 2, 128, None, 300, 20.0),
    (4, 2, 32, 0.5, 1, None),
    (3, 3, 32, None, None, 5.0),
]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", CASES, ids=[str(case) for case in CASES])
def test_results_over_rows_of_all_lengths(kind: str, case: tuple) -> None:
    heads, key_heads, size, scaling, window, softcap = case
    dtype, limit = TYPES[kind]
    keys, values = cache(dtype, key_heads, size)
    rows, starts, counts, width = [2, 0, 1], [0, 255, 640], [7, 3, 5], 7
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    query = torch.randn(3, heads, width, size, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = attend(rows, starts, ends, width, query, keys, values, scaling, window, softcap)
    assert found.shape == (3, width, heads, size)
    for b, row in enumerate(rows):
        for t in range(counts[b]):
            wanted = reference(
                query[b, :, t], keys[row], values[row], starts[b] + t, scaling, window, softcap
            )
            assert (found[b, t] - wanted).abs().max() < limit, (b, t)
        assert not found[b, counts[b] :].any()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_result_is_the_same_bits_in_every_pass(kind: str, window, threads: int) -> None:
    dtype, _ = TYPES[kind]
    keys, values = cache(dtype, 2, 64)
    query = torch.randn(1, 6, 150, 64, generator=torch.Generator().manual_seed(3)).to(dtype)

    def results(width: int, beside: list[int]) -> torch.Tensor:
        found = []
        for start in range(500, 650, width):
            part = query[:, :, start - 500 : start - 500 + width]
            count = part.shape[2]
            batch = part.expand(1 + len(beside), -1, -1, -1)
            starts = [*beside, start]
            ends = [s + count for s in starts]
            rows = list(range(len(starts)))
            moved = [t.roll(len(beside), 0) for t in (keys, values)]
            found.append(attend(rows, starts, ends, count, batch, *moved, None, window, None)[-1])
        return torch.cat(found)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wanted = results(1, [])
        for width in (2, 7, 150):
            for beside in ([], [0], [511, 30]):
                assert torch.equal(results(width, beside), wanted), (width, beside)
    finally:
        torch.set_num_threads(before)


def test_what_a_row_does_not_see_may_be_no_number() -> None:
    """Slots beyond a query's position, other rows, and the queries of pads."""
    keys, values = cache(torch.float32, 2, 32)
    query = torch.randn(2, 4, 3, 32)
    ends = [301, 11]
    wanted = attend([0, 1], [299, 10], ends, 3, query, keys, values, None, None, None)
    for row, end in enumerate(ends):
        keys[row, :, end:], values[row, :, end:] = torch.nan, torch.inf
    keys[2], values[2] = torch.nan, torch.nan
    query[0, :, 2:], query[1, :, 1:] = torch.nan, torch.nan
    found = attend([0, 1], [299, 10], ends, 3, query, keys, values, None, None, None)
    assert torch.equal(found, wanted)


def test_a_number_that_is_none_reaches_the_rows_own_results_alone() -> None:
    keys, values = cache(torch.float32, 2, 32)
    query = torch.randn(2, 4, 1, 32)
    keys[0, 0, 5, 0] = torch.nan
    found = attend([0, 1], [20, 20], [21, 21], 1, query, keys, values, None, None, None)
    assert found[0, 0, :2].isnan().all()
    assert found[0, 0, 2:].isfinite().all()
    assert found[1].isfinite().all()


def test_queries_may_lie_in_memory_in_any_way() -> None:
    keys, values = cache(torch.float32, 2, 32)
    query = torch.randn(1, 4, 3, 32)
    strange = query.transpose(2, 3).contiguous().transpose(2, 3)
    assert strange.stride(-1) != 1
    wanted, found = (
        attend([0], [4], [7], 3, own, keys, values, None, None, None) for own in (query, strange)
    )
    assert torch.equal(found, wanted)


def test_rows_may_share_pages() -> None:
    keys, values = cache(torch.float32, 2, 32)
    query = torch.randn(2, 4, 3, 32)
    keys[1, :, : 2 * PAGE], values[1, :, : 2 * PAGE] = (
        keys[0, :, : 2 * PAGE],
        values[0, :, : 2 * PAGE],
    )
    wanted = attend([0, 1], [60, 40], [63, 43], 3, query, keys, values, None, None, None)
    pages = [pages_of(0), [*pages_of(0)[:2], *pages_of(1)[2:]]]
    own = NativePass(pages, [60, 40], [63, 43], 3)
    assert torch.equal(own(query, paged(keys), paged(values), None, None, None), wanted)


def test_what_cannot_be_read_is_refused() -> None:
    keys, values = cache(torch.bfloat16, 2, 32)
    with pytest.raises(TypeError, match="float32 cannot attend to keys of torch.bfloat16"):
        attend([0], [4], [7], 3, torch.randn(1, 4, 3, 32), keys, values, None, None, None)
    # More than fits into the width, fewer than none, and beyond its pages.
    for starts, ends in (([4], [8]), ([4], [3]), ([15], [17])):
        with pytest.raises(ValueError, match="take no"):
            NativePass([[3]], starts, ends, 3)
