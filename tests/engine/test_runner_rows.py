"""Rows: taking, releasing, forking, limits, and that no row harms another."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from families import CONTEXT, VOCAB, build
from stet.core.errors import CapacityError
from stet.core.row import Row
from stet.engine.addresses import slots_of
from stet.engine.runner import Runner
from stet.models import LoadedModel, prepare_model

pytestmark = pytest.mark.unit


@functools.cache
def loaded() -> LoadedModel:
    return prepare_model(build("llama"), name="llama", self_check=False)


@functools.cache
def sliding() -> LoadedModel:
    return prepare_model(build("mistral"), name="mistral", self_check=False)


def alone(model: LoadedModel, tokens: Tensor) -> Tensor:
    """[T, V] logits of one sequence in a runner of its own."""
    run = Runner(model, max_rows=1, max_length=128)
    return run.forward([run.allocate()], tokens[None], [0]).logits[0]


def text(length: int, seed: int) -> Tensor:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def feed(run: Runner, row: Row, tokens: Tensor) -> Tensor:
    return run.forward([row], tokens[row.valid :][None], [row.valid]).logits[0]


def test_rows_stay_where_they_are_and_keep_their_text() -> None:
    run = Runner(loaded(), max_rows=4, max_length=64)
    texts = [text(20, seed) for seed in range(4)]
    rows = [run.allocate() for _ in range(4)]
    for row, tokens in zip(rows, texts, strict=True):
        feed(run, row, tokens[:10])
    pages = [list(row.pages) for row in rows]
    run.release(rows[1])
    run.release(rows[0])
    assert run.rows_in_use == 2
    assert [rows[i].pages for i in (2, 3)] == [pages[i] for i in (2, 3)]
    for i in (2, 3):
        torch.testing.assert_close(
            feed(run, rows[i], texts[i]), alone(loaded(), texts[i])[10:], atol=1e-4, rtol=0
        )


def test_release_is_idempotent_and_a_released_row_is_refused() -> None:
    run = Runner(loaded(), max_rows=2, max_length=64)
    first, second = run.allocate(), run.allocate()
    run.release(first)
    run.release(first)
    assert run.rows_in_use == 1
    assert second.live
    with pytest.raises(ValueError, match="released"):
        run.forward([first], text(3, 0)[None], [0])


def test_releasing_all_rows_by_any_order_frees_all_pages() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]):
        run = Runner(loaded(), max_rows=3, max_length=64)
        rows = [run.allocate() for _ in range(3)]
        for seed, row in enumerate(rows):
            feed(run, row, text(20 + seed, seed))
        assert run._rows.pages.held == 6
        for i in order:
            run.release(rows[i])
        assert run.rows_in_use == run._rows.pages.held == 0


def test_rows_of_the_greatest_length_all_fit() -> None:
    run = Runner(loaded(), max_rows=3, max_length=50)
    rows = [run.allocate() for _ in range(3)]
    for seed, row in enumerate(rows):
        feed(run, row, text(50, seed))
    # Forks that write everything anew need no more than their own.
    for row in rows[1:]:
        run.release(row)
    others = run.fork(rows[0], 2)
    for seed, row in enumerate(others):
        row.valid = 0
        feed(run, row, text(50, 5 + seed))
        torch.testing.assert_close(
            alone(loaded(), text(50, 5 + seed))[-1],
            run.forward([row], text(50, 5 + seed)[None, 49:], [49]).logits[0, -1],
            atol=1e-4,
            rtol=0,
        )


def test_a_fork_takes_no_more_than_its_last_page() -> None:
    run = Runner(loaded(), max_rows=9, max_length=128)
    row = run.allocate()
    feed(run, row, text(100, 0))
    before = run._rows.pages.held
    children = run.fork(row, 8)
    assert run._rows.pages.held == before + 8
    assert all(child.pages[:6] == row.pages[:6] for child in children)
    row.valid = 96  # whole pages
    for child in children:
        run.release(child)
    run.fork(row, 8)
    assert run._rows.pages.held == before


def test_nobody_writes_to_what_others_hold() -> None:
    """A parent and its forks are rewound below what they share, and write on."""
    run = Runner(loaded(), max_rows=3, max_length=64)
    tokens, other = text(50, 0), text(50, 1)
    row = run.allocate()
    feed(run, row, tokens)
    one, two = run.fork(row, 2)
    one.valid = row.valid = 20
    mixed = torch.cat([tokens[:20], other[20:]])
    for changed in (one, row):
        torch.testing.assert_close(
            feed(run, changed, mixed), alone(loaded(), mixed)[20:], atol=1e-4, rtol=0
        )
    two.valid = 45
    torch.testing.assert_close(
        feed(run, two, tokens), alone(loaded(), tokens)[45:], atol=1e-4, rtol=0
    )


def test_capacity_errors_take_nothing() -> None:
    run = Runner(loaded(), max_rows=3, max_length=16)
    row = run.allocate()
    feed(run, row, text(8, 0))
    with pytest.raises(CapacityError, match="2 are free"):
        run.fork(row, 3)
    assert run.rows_in_use == 1
    run.allocate()
    run.allocate()
    with pytest.raises(CapacityError, match="All 3 rows"):
        run.allocate()
    with pytest.raises(CapacityError, match="cache of 16"):
        run.forward([row], text(9, 1)[None], [8])
    assert row.valid == 8
    with pytest.raises(CapacityError, match="context of 640"):
        Runner(loaded(), max_rows=1, max_length=641)


def test_where_pages_are_too_few_nothing_has_changed() -> None:
    run = Runner(loaded(), max_rows=4, max_length=64, pages=6)  # one takes what pads write
    tokens = text(40, 0)
    row, other = run.allocate(), run.allocate()
    feed(run, row, tokens)
    feed(run, other, tokens[:20])
    assert run.pages_free == 0
    with pytest.raises(CapacityError, match="room for 0 more tokens, and 16 are needed"):
        run.fork(row, 1)
    with pytest.raises(CapacityError, match="give it more memory"):
        run.forward([row, other], text(14, 1).repeat(2, 1), [40, 20])
    assert (row.valid, other.valid, len(row.pages), len(other.pages)) == (40, 20, 3, 2)
    row.valid = 32
    (fork,) = run.fork(row, 1)  # whole pages are shared
    other.valid = 0
    # Both write to the page that they share: one needs another, the last one has it for itself.
    run.release(other)
    row.valid = fork.valid = 30
    run.forward([row, fork], torch.stack([tokens[30:34]] * 2), [30, 30])
    for each in (row, fork):
        found = feed(run, each, tokens[: each.valid + 3])
        torch.testing.assert_close(found, alone(loaded(), tokens)[34:37], atol=1e-4, rtol=0)


def test_a_sequence_may_fill_the_cache_exactly() -> None:
    run = Runner(loaded(), max_rows=2, max_length=16)
    tokens = text(16, 3)
    rows = [run.allocate(), run.allocate()]
    batch = torch.stack([tokens, tokens])
    logits = run.forward(rows, batch, [0, 0], [16, 3]).logits
    torch.testing.assert_close(logits[0], alone(loaded(), tokens), atol=1e-4, rtol=0)
    # Pads leave nothing behind, and their positions may lie past the end.
    slots = slots_of(rows[1])
    assert not run.cache.keys[0][slots[3:16]].any()
    rows[0].valid = 14
    logits = run.forward(rows, batch[:, 11:], [14, 3], [1, 4]).logits
    assert not run.cache.keys[0][slots[7:16]].any()
    assert rows[0].valid == 15


def test_pads_past_the_last_learned_position() -> None:
    model = prepare_model(build("gpt2"), self_check=False)
    run = Runner(model, max_rows=1, max_length=CONTEXT)
    row = run.allocate()
    run.forward([row], text(CONTEXT - 2, 0)[None], [0], logits="none")
    block = text(4, 1)[None]
    padded = run.forward([row], block, [CONTEXT - 2], [2]).logits[:, :2]
    row.valid = CONTEXT - 2
    plain = run.forward([row], block[:, :2], [CONTEXT - 2]).logits
    torch.testing.assert_close(padded, plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("starts", "counts"), [([6], None), ([-1], None), ([0], [4]), ([0], [-1])])
def test_misuse_is_refused(starts: list[int], counts: list[int] | None) -> None:
    run = Runner(loaded(), max_rows=1, max_length=64)
    row = run.allocate()
    feed(run, row, text(5, 0))
    with pytest.raises(ValueError, match="valid tokens"):
        run.forward([row], text(3, 1)[None], starts, counts)
    with pytest.raises(ValueError, match="twice"):
        run.forward([row, row], text(6, 1).view(2, 3), [0, 0])


def test_a_fork_begins_as_far_as_its_parent_is_valid() -> None:
    run = Runner(loaded(), max_rows=3, max_length=64)
    tokens, other = text(20, 0), text(20, 1)
    row = run.allocate()
    feed(run, row, tokens)
    row.valid = 12
    passes = run.passes
    (child,) = run.fork(row, 1)
    assert run.passes == passes
    assert child.valid == 12
    mixed = torch.cat([tokens[:12], other[12:]])
    torch.testing.assert_close(
        feed(run, child, mixed), alone(loaded(), mixed)[12:], atol=1e-4, rtol=0
    )
    run.release(row)
    child.valid = 14
    torch.testing.assert_close(
        feed(run, child, mixed), alone(loaded(), mixed)[14:], atol=1e-4, rtol=0
    )


@torch.inference_mode()
def poison(run: Runner, row: Row, length: int) -> None:
    """Fill a row's cache with NaN, as a forward of a broken request would."""
    run._rows.prepare([row], [0], [length])
    for tensor in (*run.cache.keys, *run.cache.values):
        tensor[slots_of(row)[:length]] = float("nan")


@pytest.mark.parametrize("model", [loaded, sliding])
def test_nan_stays_in_its_row(model) -> None:
    run = Runner(model(), max_rows=3, max_length=64)
    rows = [run.allocate() for _ in range(3)]
    texts = [text(30, seed) for seed in range(3)]
    run.forward(rows, torch.stack(texts)[:, :20], [0, 0, 0], [20, 20, 9])
    poison(run, rows[1], 20)
    block = torch.stack([texts[0][20:23], texts[1][20:23], texts[2][9:12]])
    logits = run.forward(rows, block, [20, 20, 9], [3, 3, 2]).logits
    assert logits[1].isnan().all()
    for b, (start, count) in ((0, (20, 3)), (2, (9, 2))):
        torch.testing.assert_close(
            logits[b, :count],
            alone(model(), texts[b])[start : start + count],
            atol=1e-4,
            rtol=0,
        )


def test_nan_does_not_outlive_its_row() -> None:
    """The pages of a poisoned row are used again: by a new row, and by a fork."""
    run = Runner(loaded(), max_rows=3, max_length=64)
    tokens = text(20, 0)
    rows = [run.allocate() for _ in range(3)]
    feed(run, rows[2], tokens[:4])
    for row in rows[:2]:
        feed(run, row, tokens)
        poison(run, row, 30)
        run.release(row)
    fresh = run.allocate()
    (other,) = run.fork(rows[2], 1)
    other.valid = 2
    for row, start in ((fresh, 0), (other, 2)):
        rows[2].valid = 4
        # A shorter row beside a longer one.
        block = torch.stack([tokens[4:10], tokens[start : start + 6]])
        logits = run.forward([rows[2], row], block, [4, start]).logits
        wanted = alone(loaded(), tokens)
        torch.testing.assert_close(logits[0], wanted[4:10], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[1], wanted[start : start + 6], atol=1e-4, rtol=0)


def test_a_new_row_does_not_inherit_nan() -> None:
    run = Runner(loaded(), max_rows=2, max_length=64)
    tokens = text(20, 0)
    first, second = run.allocate(), run.allocate()
    run.forward([first, second], torch.stack([tokens, tokens]), [0, 0])
    poison(run, second, 20)
    run.release(second)
    fresh = run.allocate()
    first.valid = 18
    block = torch.stack([tokens[18:], tokens[:2]])
    logits = run.forward([first, fresh], block, [18, 0]).logits
    torch.testing.assert_close(logits[1], alone(loaded(), tokens)[:2], atol=1e-4, rtol=0)


def test_scrub_empties_a_row() -> None:
    run = Runner(loaded(), max_rows=1, max_length=64)
    tokens = text(20, 0)
    row = run.allocate()
    feed(run, row, tokens)
    poison(run, row, 30)
    run.scrub(row)
    assert row.valid == 0
    torch.testing.assert_close(feed(run, row, tokens), alone(loaded(), tokens), atol=1e-4, rtol=0)


def test_pads_may_hold_any_token() -> None:
    """The result is bit-identical whatever the pads are."""
    run = Runner(loaded(), max_rows=2, max_length=64)
    rows = [run.allocate(), run.allocate()]
    tokens = torch.stack([text(9, 0), text(9, 1)])
    results = []
    for pad in (0, 5):
        padded = tokens.clone()
        padded[1, 4:] = pad
        run.forward(rows, padded, [0, 0], [9, 4])
        results.append(run.forward(rows, tokens[:, :3], [9, 4]).logits)
    assert torch.equal(*results)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "feed", "feed", "rewind", "fork", "release", "allocate"]),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    min_size=4,
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, window=st.booleans())
def test_any_history_gives_the_logits_of_the_final_text(
    steps: list[tuple[str, int, int]], window: bool
) -> None:
    """Feed, rewind, fork, release in any order: every row still agrees with its own text."""
    model = sliding() if window else loaded()
    run = Runner(model, max_rows=4, max_length=100)
    live: list[tuple[Row, list[int]]] = [(run.allocate(), [])]
    generator = torch.Generator().manual_seed(0)
    for action, x, y in steps:
        if action == "allocate" and run.rows_in_use < 4:
            live.append((run.allocate(), []))
        elif action == "fork" and live and run.rows_in_use < 4:
            row, tokens = live[x % len(live)]
            live.append((run.fork(row, 1)[0], tokens[: row.valid]))
        elif action == "release" and len(live) > 1:
            run.release(live.pop(x % len(live))[0])
        elif action == "rewind":
            row, tokens = live[x % len(live)]
            row.valid = min(row.valid, y % 12)
            del tokens[row.valid :]
        else:
            width = 1 + y % 5
            chosen = [pair for i, pair in enumerate(live) if x >> i & 1] or live[:1]
            block = torch.randint(VOCAB, (len(chosen), width), generator=generator)
            counts = [(x + 3 * i) % (width + 1) for i in range(len(chosen))]
            starts = [row.valid for row, _ in chosen]
            run.forward([row for row, _ in chosen], block, starts, counts)
            for (_, tokens), new, count in zip(chosen, block.tolist(), counts, strict=True):
                tokens.extend(new[:count])
    last = torch.randint(VOCAB, (len(live), 1), generator=generator)
    logits = run.forward([r for r, _ in live], last, [r.valid for r, _ in live]).logits
    for (row, tokens), token, result in zip(live, last, logits, strict=True):
        assert row.valid == len(tokens) + 1
        whole = torch.tensor([*tokens, int(token)])
        torch.testing.assert_close(result[0], alone(model, whole)[-1], atol=2e-4, rtol=0)
