"""Texts that stay in the cache when their rows are given back: what begins so is not read again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ggufs
from families import VOCAB, build
from stet import load_pair
from stet.core.row import PAGE, Row
from stet.engine.runner import Runner
from stet.kernels import unavailable
from stet.kernels.attention import serves
from stet.models import LoadedModel, prepare_model

REASON = unavailable() or ("" if serves([]) else "attention cannot be compiled")
SIZE, ROWS = 96, 4


@functools.cache
def loaded() -> LoadedModel:
    return prepare_model(build("llama"), name="llama", self_check=False)


def keeping(rows: int = ROWS) -> Runner:
    """A runner that keeps texts."""
    run = Runner(loaded(), max_rows=rows, max_length=SIZE)
    run.keep_texts(True)
    return run


def text(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (length,), generator=generator).tolist()


def feed(run: Runner, row: Row, tokens: list[int], end: int | None = None) -> torch.Tensor:
    part = torch.tensor(tokens[row.valid : end])[None]
    return run.forward([row], part, [row.valid]).logits[0]


@functools.cache
def last_logits(tokens: tuple[int, ...]) -> torch.Tensor:
    run = Runner(loaded(), max_rows=1, max_length=SIZE)
    return run.forward([run.allocate()], torch.tensor([tokens]), [0]).logits[0, -1]


def right(run: Runner, row: Row, tokens: list[int]) -> None:
    """The row holds this text as far as it is valid: the token after it is what it must be."""
    row.valid = min(row.valid, len(tokens) - 1)
    found = feed(run, row, tokens)[-1]
    torch.testing.assert_close(found, last_logits(tuple(tokens)), atol=1e-4, rtol=0)


def test_a_text_that_was_given_back_is_not_read_again() -> None:
    run, tokens = keeping(), text(40, 0)
    row = run.allocate(tokens)
    feed(run, row, tokens)
    run.release(row, tokens)
    # Whole pages are kept.
    again = run.allocate([*tokens[:35], *text(10, 1)])
    assert again.valid == 32
    right(run, again, [*tokens[:35], *text(10, 1)])
    run.release(again)
    assert run.allocate(tokens).valid == 32


def test_what_another_writes_over_a_kept_text_is_not_taken_for_it() -> None:
    run, tokens = keeping(rows=1), text(40, 0)
    row = run.allocate(tokens)
    feed(run, row, tokens)
    run.learn(row, tokens)
    row.valid = 20
    other = [*tokens[:20], *text(20, 1)]
    feed(run, row, other)
    run.release(row, other)
    assert run.allocate(tokens).valid == 16


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_each_finds_its_own_among_several_in_any_order(order: list[int]) -> None:
    texts, run = [text(40, seed) for seed in range(ROWS)], keeping()
    for turn, (asked, given_back) in enumerate(
        ((order, order), (order, order[::-1]), (range(ROWS), order))
    ):
        rows = {i: run.allocate(texts[i]) for i in asked}
        assert [row.valid for row in rows.values()] == [32 if turn else 0] * ROWS
        for i, row in rows.items():
            right(run, row, texts[i])
        for i in given_back:
            run.release(rows[i], texts[i])


def test_the_text_of_a_live_row_is_shared() -> None:
    run, tokens = keeping(), text(40, 0)
    row = run.allocate(tokens)
    feed(run, row, tokens, 35)
    run.learn(row, tokens)
    other = [*tokens[:25], *text(10, 1)]
    twin = run.allocate(other)
    assert twin.valid == 16
    assert twin.pages == row.pages[:1]
    right(run, twin, other)
    right(run, row, tokens)
    assert run.allocate(tokens).valid == 32


def test_of_a_text_only_what_is_read_is_shared() -> None:
    run, tokens = keeping(), text(40, 0)
    row = run.allocate(tokens)
    feed(run, row, tokens, 20)
    run.learn(row, tokens)
    assert run.allocate(tokens).valid == 16


def test_kept_texts_make_room_for_those_that_live() -> None:
    run = keeping(rows=1)
    for seed in range(20):
        tokens = text(90, seed)
        row = run.allocate(tokens)
        feed(run, row, tokens)
        run.release(row, tokens)
    assert run.allocate(text(90, 19)).valid == 80
    assert run._rows.pages.held == 5


def test_a_few_tokens_are_not_kept_and_nothing_is_kept_unasked() -> None:
    run, tokens = keeping(), text(40, 0)
    row = run.allocate(tokens)
    feed(run, row, tokens)
    run.release(row, tokens)
    assert run.allocate([*tokens[: PAGE - 1], *text(20, 1)]).valid == 0
    plain = Runner(loaded(), max_rows=ROWS, max_length=SIZE)
    row = plain.allocate(tokens)
    feed(plain, row, tokens)
    plain.learn(row, tokens)
    assert plain.allocate(tokens).valid == 32  # while somebody works on it
    plain.release(row, tokens)
    assert plain.allocate(tokens).valid == 32  # the one that found it holds it now
    plain = Runner(loaded(), max_rows=ROWS, max_length=SIZE)
    row = plain.allocate(tokens)
    feed(plain, row, tokens)
    plain.learn(row, tokens)
    plain.release(row, tokens)
    assert plain.allocate(tokens).valid == 0


def test_texts_are_kept_while_there_may_be_more_pages() -> None:
    run = Runner(loaded(), max_rows=2, max_length=640, pages=81)
    run.keep_texts(True)
    texts = [text(300, seed) for seed in range(4)]
    for tokens in texts:
        row = run.allocate(tokens)
        feed(run, row, tokens)
        run.release(row, tokens)
    for tokens in texts:
        row = run.allocate(tokens)
        assert row.valid == 288
        run.release(row, tokens)


def test_what_is_no_number_is_found_by_nobody() -> None:
    run, tokens = keeping(), text(40, 0)
    row = run.allocate(tokens)
    feed(run, row, tokens)
    run.learn(row, tokens)
    twin = run.allocate(tokens)
    run.scrub(row)
    run.release(row, tokens)
    run.release(twin)
    assert run.allocate(tokens).valid == 0


BASE = text(SIZE, 7)
LENGTHS = st.sampled_from([4, PAGE, 24, 40, 60])
DOING = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), LENGTHS, LENGTHS), max_size=24)


@settings(max_examples=40, deadline=None)
@given(DOING)
def test_whatever_happens_every_row_holds_its_text(doing: list[tuple[int, int, int, int]]) -> None:
    """Rows come and go, are rewound and forked; texts begin alike and part at any place."""
    run = keeping()
    live: list[tuple[Row, list[int]]] = []
    for what, which, common, more in doing:
        if what <= 1 and len(live) < ROWS:
            tokens = [*BASE[:common], *text(more // 2, which)]
            row = run.allocate(tokens)
            assert row.valid <= len(tokens)
            if row.valid < len(tokens):
                feed(run, row, tokens, max(row.valid + 1, len(tokens) - which))
                run.learn(row, tokens)
            live.append((row, tokens))
        elif what == 2 and live:
            row, tokens = live.pop(which % len(live))
            row.valid = min(row.valid, more)
            run.release(row, tokens if which % 2 else [])
        elif what == 3 and live and len(live) < ROWS:
            row, tokens = live[which % len(live)]
            (child,) = run.fork(row, 1)
            live.append((child, tokens))
    for row, tokens in live:
        right(run, row, tokens)


@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_a_pair_that_keeps_texts_writes_the_same_and_reads_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf", reason="needs the gguf package")
    paths = [
        ggufs.write(
            tmp_path / f"{s}.gguf",
            ggufs.build("llama", s, max_position_embeddings=320),
            "llama",
            "Q4_K",
        )
        for s in range(2)
    ]
    options = {"max_new_tokens": 24, "ignore_eos": True, "draft_length": 4}
    read = [0]
    forward = Runner.forward

    def counting(self, rows, tokens, starts, counts=None, **more):
        read[0] += sum(counts or [tokens.shape[1]] * len(rows)) * (more.get("logits") == "none")
        return forward(self, rows, tokens, starts, counts, **more)

    monkeypatch.setattr(Runner, "forward", counting)
    begun = [[*text(50, 3)[:30], *text(20, seed)] for seed in range(5)]
    with load_pair(
        *paths, dtype="float32", compile=False, max_length=300, max_batch=3, packed=True
    ) as pair:

        def answers(prompts: list[list[int]], policy: str) -> list[list[int]]:
            return [r.token_ids for r in pair.generate(prompts, policy, **options)]

        def counted(asked: Callable[[], object]) -> tuple[object, int]:
            before = read[0]
            return asked(), read[0] - before

        for policy in ("target", "exact", "specguard"):
            alone, apart = counted(
                lambda policy=policy: [answers([prompt], policy)[0] for prompt in begun]
            )
            plain, cost = counted(lambda policy=policy: answers(begun, policy))
            assert plain == alone
            assert cost <= apart - 4 * 16  # they begin alike, and are at work at one time
            with pair.keeping_texts():
                first, once = counted(lambda policy=policy: answers(begun, policy))
                again, twice = counted(lambda policy=policy: answers(begun, policy))
                longer = [[*b, *a] for b, a in zip(begun, again, strict=True)]
                kept, _ = counted(lambda policy=policy, p=longer: answers(p, policy))
            assert first == again == plain, policy
            assert once <= cost
            assert twice < once
            assert kept == answers(longer, policy)

        # A text that torch would attend to in one wide pass is read in narrow ones.
        long = text(200, 9)
        widths: list[int] = []

        def watching(self, rows, tokens, starts, counts=None, **more):
            widths.append(tokens.shape[1])
            return forward(self, rows, tokens, starts, counts, **more)

        monkeypatch.setattr(Runner, "forward", watching)
        asked = {"logprobs": 1, **options}
        with pair.keeping_texts():
            whole = pair.generate(long, "exact", **asked).trace.tokens
        with pair.keeping_texts():
            pair.generate(long[:90], "exact", **asked)
            again = pair.generate(long, "exact", **asked).trace.tokens
        assert [t.top_logprobs for t in again] == [t.top_logprobs for t in whole]
        unkept = pair.generate(long, "exact", **asked).trace.tokens
        assert [t.top_logprobs for t in unkept] == [t.top_logprobs for t in whole]
        assert max(widths) <= pair.target.native
