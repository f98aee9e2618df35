"""The runner's logits, for every family, against the model's own eager attention."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from families import FAMILIES, VOCAB, WINDOW, build
from stet.engine.runner import Runner
from stet.models import LoadedModel, prepare_model

LENGTH = 40  # well past the windows
TOLERANCE = 1e-4  # logits reach about 10


FOREIGN = "gemma2 in transformers", "qwen2-window in transformers"
"""Families whose passes go through transformers' module here, not through Stet's own decoder."""


@functools.cache
def loaded(family: str) -> LoadedModel:
    kind, _, foreign = family.partition(" ")
    return prepare_model(build(kind), name=family, self_check=False, lean=not foreign)


@functools.cache
def reference(family: str):
    model = build(family.partition(" ")[0])
    model.set_attn_implementation("eager")
    return model


def expected(family: str, tokens: Tensor) -> Tensor:
    """[B, T, V] logits of whole sequences by transformers alone."""
    with torch.inference_mode():
        return reference(family)(input_ids=tokens, use_cache=False).logits


def prompts(rows: int, length: int = LENGTH, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (rows, length), generator=generator)


def runner(family: str, rows: int = 4, length: int = 600) -> Runner:
    return Runner(loaded(family), max_rows=rows, max_length=length)


def close(actual: Tensor, wanted: Tensor) -> None:
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, wanted, atol=TOLERANCE, rtol=0)


pytestmark = [pytest.mark.unit, pytest.mark.parametrize("family", [*FAMILIES, *FOREIGN])]


def test_windows_and_positions_matter(family: str) -> None:
    """The reference must be sensitive to what these tests are about."""
    model = reference(family)
    tokens = prompts(1)
    whole = expected(family, tokens)[0, -1]
    short = expected(family, tokens[:, -WINDOW:])[0, -1]
    assert (whole - short).abs().max() > 0.05
    if any(layer.window for layer in loaded(family).layers):
        config = model.config
        accepted, config.sliding_window = config.sliding_window, WINDOW - 1
        try:
            assert (whole - expected(family, tokens)[0, -1]).abs().max() > 0.05
        finally:
            config.sliding_window = accepted


def test_prefill(family: str) -> None:
    run, tokens = runner(family), prompts(1)
    close(run.forward([run.allocate()], tokens, [0]).logits, expected(family, tokens))


def test_prefill_in_chunks(family: str) -> None:
    run, tokens = runner(family), prompts(1)
    row = run.allocate()
    parts = [
        run.forward([row], tokens[:, start:stop], [start]).logits
        for start, stop in [(0, 17), (17, 34), (34, LENGTH)]
    ]
    close(torch.cat(parts, 1), expected(family, tokens))


def test_single_tokens(family: str) -> None:
    run, tokens = runner(family), prompts(1)
    row = run.allocate()
    parts = [run.forward([row], tokens[:, t : t + 1], [t]).logits for t in range(LENGTH)]
    close(torch.cat(parts, 1), expected(family, tokens))


def test_blocks_after_rewinding(family: str) -> None:
    """Blocks of other tokens are written, rewound and overwritten, longer and shorter ones."""
    run, tokens, other = runner(family), prompts(1), prompts(1, seed=2)
    row = run.allocate()
    wanted = expected(family, tokens)
    run.forward([row], tokens[:, :20], [0])
    at = 20
    for width, wrong in [(5, 8), (3, 1), (6, 6), (1, 4)]:
        run.forward([row], other[:, at : at + wrong], [at])
        row.valid = at
        close(
            run.forward([row], tokens[:, at : at + width], [at]).logits, wanted[:, at : at + width]
        )
        at += width
    # Far back, so that stale entries lie before and behind the window.
    row.valid = 10
    run.forward([row], other[:, 10:30], [10])
    row.valid = 12
    run.forward([row], tokens[:, 10:14], [10])
    close(run.forward([row], tokens[:, 14:15], [14]).logits, wanted[:, 14:15])


def test_ragged_batch(family: str) -> None:
    run, tokens = runner(family), prompts(4)
    wanted = expected(family, tokens)
    rows = [run.allocate() for _ in range(4)]
    run.forward(rows, tokens, [0] * 4, [30, 12, 21, 5], logits="none")
    assert [r.valid for r in rows] == [30, 12, 21, 5]
    starts, counts = [30, 12, 20, 3], [6, 1, 4, 0]
    block = torch.zeros((4, 6), dtype=torch.long)
    for b, (start, count) in enumerate(zip(starts, counts, strict=True)):
        block[b, :count] = tokens[b, start : start + count]
    logits = run.forward(rows, block, starts, counts).logits
    for b, (start, count) in enumerate(zip(starts, counts, strict=True)):
        close(logits[b, :count], wanted[b, start : start + count])
    assert [r.valid for r in rows] == [36, 13, 24, 3]
    # Pads left nothing behind.
    starts = [36, 13, 24, 3]
    single = torch.stack([tokens[b, s : s + 1] for b, s in enumerate(starts)])
    logits = run.forward(rows, single, starts).logits
    for b, start in enumerate(starts):
        close(logits[b, 0], wanted[b, start])


def test_fork(family: str) -> None:
    run, tokens = runner(family), prompts(2)
    tokens[1, :25] = tokens[0, :25]
    wanted = expected(family, tokens)
    parent = run.allocate()
    run.forward([parent], tokens[:1, :30], [0])
    parent.valid = 25
    children = run.fork(parent, 2)
    assert [c.valid for c in children] == [25, 25]
    logits = run.forward(children, tokens[:, 25:33], [25, 25]).logits
    close(logits, wanted[:, 25:33])
    # The parent is untouched by its children.
    close(run.forward([parent], tokens[:1, 25:30], [25]).logits, wanted[:1, 25:30])


def test_rows_in_any_order(family: str) -> None:
    run, tokens = runner(family), prompts(4)
    wanted = expected(family, tokens)
    rows = [run.allocate() for _ in range(4)]
    run.forward(rows, tokens[:, :30], [0] * 4, logits="none")
    for order in ([3, 1], [0, 2, 3], [2, 1, 0, 3]):
        for row in rows:
            row.valid = 30
        starts = [30 - b for b in order]
        block = torch.stack([tokens[b, s : s + 3] for b, s in zip(order, starts, strict=True)])
        logits = run.forward([rows[b] for b in order], block, starts).logits
        for i, (b, start) in enumerate(zip(order, starts, strict=True)):
            close(logits[i], wanted[b, start : start + 3])


def test_growth(family: str) -> None:
    """The cache grows in the middle of a sequence, with a pad in the slot that was reserved."""
    length = 300
    run, tokens = runner(family, rows=2), prompts(2, length)
    wanted = expected(family, tokens)
    rows = [run.allocate(), run.allocate()]
    before = run.cache.pages
    run.forward(rows, tokens[:, :250], [0, 0], [250, 240], logits="none")
    block = torch.stack([tokens[0, 250:262], tokens[1, 240:252]])
    logits = run.forward(rows, block, [250, 240], [12, 7]).logits
    assert run.cache.pages > before
    close(logits[0], wanted[0, 250:262])
    close(logits[1, :7], wanted[1, 240:247])
    logits = run.forward(rows, torch.stack([tokens[0, 262:300], tokens[1, 247:285]]), [262, 247])
    close(logits.logits, torch.stack([wanted[0, 262:300], wanted[1, 247:285]]))


def test_last_logits_and_hidden_state(family: str) -> None:
    run, tokens = runner(family), prompts(3)
    rows = [run.allocate() for _ in range(3)]
    counts = [9, 4, 7]
    wanted = expected(family, tokens)
    result = run.forward(rows, tokens[:, :9], [0] * 3, counts, logits="last", hidden=True)
    assert result.logits.shape == (3, 1, VOCAB)
    for b, count in enumerate(counts):
        close(result.logits[b, 0], wanted[b, count - 1])
    with torch.inference_mode():
        hidden = reference(family).base_model(input_ids=tokens, use_cache=False).last_hidden_state
    assert result.hidden is not None
    for b, count in enumerate(counts):
        close(result.hidden[b, :count], hidden[b, :count])
    for count in (1, 2):  # the same for all rows, and less than the width
        result = run.forward(rows, tokens[:, :3], [0] * 3, [count] * 3, logits="last")
        close(result.logits[:, 0], wanted[:, count - 1])
    nothing = run.forward(rows, tokens[:, :2], [0] * 3, logits="none")
    assert nothing.logits.shape == (3, 0, VOCAB)
    assert nothing.hidden is None


def test_lengths_that_differ_widely(family: str) -> None:
    """A long row among short ones is attended in a span of its own, with the same result."""
    run, tokens = runner(family), prompts(4, 300)
    run._span_cost = 20
    wanted = expected(family, tokens)
    rows = [run.allocate() for _ in range(4)]
    lengths = [8, 290, 11, 9]
    for row, length, text in zip(rows, lengths, tokens, strict=True):
        run.forward([row], text[None, :length], [0], logits="none")
    run.model = replace(run.model, native=0)  # as where the kernel does not attend
    ends = [n + 2 for n in lengths]
    run._rows.prepare(rows, lengths, ends)
    spans = run._view(rows, 2, lengths, None, ends)[0].spans
    assert [(s.first, s.last) for s in spans] == [(0, 1), (1, 2), (2, 4)]
    block = torch.stack([t[n : n + 2] for t, n in zip(tokens, lengths, strict=True)])
    logits = run.forward(rows, block, lengths).logits
    for b, length in enumerate(lengths):
        close(logits[b], wanted[b, length : length + 2])
