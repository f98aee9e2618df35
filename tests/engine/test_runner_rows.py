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


def test_live_rows_stay_dense_and_keep_their_text() -> None:
    run = Runner(loaded(), max_rows=4, max_length=64)
    texts = [text(20, seed) for seed in range(4)]
    rows = [run.allocate() for _ in range(4)]
    for row, tokens in zip(rows, texts, strict=True):
        feed(run, row, tokens[:10])
    run.release(rows[1])
    assert run.rows_in_use == 3
    assert [rows[i].index for i in (0, 3, 2)] == [0, 1, 2]
    run.release(rows[0])
    assert sorted(rows[i].index for i in (2, 3)) == [0, 1]
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
    assert second.index == 0
    with pytest.raises(ValueError, match="row -1"):
        run.forward([first], text(3, 0)[None], [0])


def test_releasing_all_rows_by_any_order_empties_the_runner() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]):
        run = Runner(loaded(), max_rows=3, max_length=64)
        rows = [run.allocate() for _ in range(3)]
        for i in order:
            run.release(rows[i])
        assert run.rows_in_use == 0
        assert [run.allocate().index for _ in range(3)] == [0, 1, 2]


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


def test_a_sequence_may_fill_the_cache_exactly() -> None:
    run = Runner(loaded(), max_rows=2, max_length=16)
    tokens = text(16, 3)
    rows = [run.allocate(), run.allocate()]
    batch = torch.stack([tokens, tokens])
    logits = run.forward(rows, batch, [0, 0], [16, 3]).logits
    torch.testing.assert_close(logits[0], alone(loaded(), tokens), atol=1e-4, rtol=0)
    # Pads leave nothing behind, and their positions may lie past the end.
    assert not run.cache.keys[0][1, :, 3:16].any()
    rows[0].valid = 14
    logits = run.forward(rows, batch[:, 11:], [14, 3], [1, 4]).logits
    assert not run.cache.keys[0][1, :, 7:16].any()
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


def test_fork_copies_only_what_is_valid() -> None:
    run = Runner(loaded(), max_rows=3, max_length=64)
    tokens, other = text(20, 0), text(20, 1)
    row = run.allocate()
    feed(run, row, tokens)
    row.valid = 12
    passes = run.passes
    (child,) = run.fork(row, 1)
    assert run.passes == passes
    assert child.valid == 12
    assert not run.cache.keys[0][child.index, :, 12:].any()
    mixed = torch.cat([tokens[:12], other[12:]])
    torch.testing.assert_close(
        feed(run, child, mixed), alone(loaded(), mixed)[12:], atol=1e-4, rtol=0
    )
    run.release(row)
    assert child.index == 0
    child.valid = 14
    torch.testing.assert_close(
        feed(run, child, mixed), alone(loaded(), mixed)[14:], atol=1e-4, rtol=0
    )


@torch.inference_mode()
def poison(run: Runner, row: Row, length: int) -> None:
    """Fill a row's cache with NaN, as a forward of a broken request would."""
    for tensor in (*run.cache.keys, *run.cache.values):
        tensor[row.index, :, :length] = float("nan")
    row.written = max(row.written, length)


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
    """The place of a poisoned row is reused: by a new row, by a moved one, by a fork."""
    run = Runner(loaded(), max_rows=3, max_length=64)
    tokens = text(20, 0)
    rows = [run.allocate() for _ in range(3)]
    feed(run, rows[2], tokens[:4])
    run.forward(rows[:2], torch.stack([tokens, tokens]), [0, 0])
    poison(run, rows[0], 20)
    poison(run, rows[1], 20)
    run.release(rows[0])  # rows[2] moves to place 0, shorter than what was there
    assert rows[2].index == 0
    block = torch.stack([tokens[4:10], tokens[:6]])
    fresh = run.allocate()
    run.release(rows[1])
    # A shorter row beside a longer one reads past its own end, where the poison was.
    other = run.fork(rows[2], 1)[0]
    other.valid = 2
    for row, start in ((fresh, 0), (other, 2)):
        rows[2].valid = 4
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
