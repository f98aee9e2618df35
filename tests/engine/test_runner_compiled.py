"""Compiled passes give the eager ones' logits, and their absence is only slower."""

from __future__ import annotations

import threading

import pytest
import torch

from families import VOCAB, build
from stet.core.needs import AttentionCapture
from stet.core.operations import Draft
from stet.core.sequence import TokenSequence
from stet.engine import compiled
from stet.engine import runner as runner_module
from stet.engine.attention_capture import Recorder
from stet.engine.drafting import ModelDrafter
from stet.engine.runner import Runner
from stet.models import prepare_model

BATCHES = [
    ([0], [30], None),
    ([1], [17], None),
    ([0, 1, 2, 3], [30, 30, 30, 30], None),
    ([1, 2], [16, 29], [2, 1]),
    ([0, 1, 2], [30, 7, 20], [1, 0, 2]),
    ([3, 1], [30, 30], None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "widths"), [("llama", [1, 3]), ("gemma2", [2])])
def test_same_logits_without_compiling_again(family: str, widths: list[int]) -> None:
    loaded = prepare_model(build(family), name=family, self_check=False)
    eager = Runner(loaded, max_rows=4, max_length=64)
    fast = Runner(loaded, max_rows=4, max_length=64, compile=True)
    assert fast.warm_up(widths), fast._compiled.failure
    generator = torch.Generator().manual_seed(0)
    # Longer than what is compiled, so that a prefill is not.
    prompts = torch.randint(VOCAB, (4, compiled.WIDEST + 8), generator=generator)
    pairs = [(fast.allocate(), eager.allocate()) for _ in range(4)]
    used = 0
    run = fast._compiled.run

    def counted(*arguments):
        nonlocal used
        used += 1
        return run(*arguments)

    fast._compiled.run = counted
    with torch.compiler.set_stance("fail_on_recompile"):
        for width in widths:
            for places, starts, counts in BATCHES:
                counts = None if counts is None else [min(c, width) for c in counts]
                results = []
                block = torch.randint(VOCAB, (len(places), width), generator=generator)
                for runner, which in ((fast, 0), (eager, 1)):
                    rows = [pair[which] for pair in pairs]
                    for row in rows:
                        row.valid = 0
                    runner.forward(rows, prompts, [0] * 4, logits="none")
                    results.append(runner.forward([rows[p] for p in places], block, starts, counts))
                ours, wanted = (r.logits for r in results)
                for b in range(len(places)):
                    count = width if counts is None else counts[b]
                    torch.testing.assert_close(
                        ours[b, :count], wanted[b, :count], atol=1e-4, rtol=0
                    )
    assert used == len(widths) * len(BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_may_be_the_whole_cache(rows: int) -> None:
    loaded = prepare_model(build("llama"), self_check=False)
    fast = Runner(loaded, max_rows=rows, max_length=64, compile=True)
    eager = Runner(loaded, max_rows=rows, max_length=64)
    assert fast.warm_up([1])
    tokens = torch.arange(rows)[:, None]
    ours, wanted = (
        runner.forward([runner.allocate() for _ in range(rows)], tokens, [0] * rows).logits
        for runner in (fast, eager)
    )
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
    assert (rows > 1, 1, 0) in fast._compiled._ready
    assert fast._compiled.failure is None


@pytest.mark.slow
def test_a_pass_with_attention_capture_is_compiled_too_and_has_the_same_weights() -> None:
    """Windows, soft caps and grouped heads; a single row and a ragged batch."""
    loaded = prepare_model(build("gemma2"), name="gemma2", role="draft", self_check=False)
    capture = AttentionCapture(2, frozenset({0.0, 0.02}))
    results = []
    for fast in (False, True):
        runner = Runner(loaded, max_rows=4, max_length=64, compile=fast)
        if fast:
            assert runner.warm_up([1, 2], capture=capture.layers)
            assert not runner._compiled.find(1, 1)  # nobody asked for one without
            monitored = runner._compiled.run
            ran = []

            def counted(*arguments, monitored=monitored, ran=ran):
                ran.append(arguments)
                return monitored(*arguments)

            runner._compiled.run = counted
        for lengths in ([23], [30, 9, 16]):
            generator = torch.Generator().manual_seed(len(lengths))
            prompts = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
            sequences = [TokenSequence(tokens) for tokens in prompts]
            for sequence in sequences:
                row = sequence.rows["draft"] = runner.allocate()
                runner.forward([row], torch.tensor([sequence.tokens[:-2]]), [0])
            # A stretch of 6 tokens, and rows that end before it does.
            counts = [6, 2, 4][: len(lengths)]
            with torch.inference_mode(), torch.compiler.set_stance("fail_on_recompile"):
                blocks = ModelDrafter(runner).run(
                    [Draft(s, n, capture=capture) for s, n in zip(sequences, counts, strict=True)]
                )
            results.append([(block.tokens, block.attention) for block in blocks])
            for sequence in sequences:
                runner.release(sequence.rows["draft"])
    assert len(ran) == 2 * 6
    for plain, ours in zip(results[:2], results[2:], strict=True):
        for (tokens, wanted), (same, found) in zip(plain, ours, strict=True):
            assert tokens == same
            for floor in capture.floors:
                torch.testing.assert_close(found[floor], wanted[floor], atol=1e-4, rtol=0)


def asking(monkeypatch: pytest.MonkeyPatch) -> tuple[Runner, list]:
    """A runner, and the passes that it asks to have compiled, which none ever is."""
    loaded = prepare_model(build("llama"), self_check=False)
    runner = Runner(loaded, max_rows=1, max_length=64, compile=True)
    requested: list = []
    monkeypatch.setattr(runner._compiled, "request", lambda *key: requested.append(key))
    return runner, requested


@pytest.mark.unit
def test_passes_with_attention_capture_are_asked_for_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, requested = asking(monkeypatch)
    row = runner.allocate()
    token = torch.zeros((1, 1), dtype=torch.long)
    for at in range(12):
        recorder = Recorder((0, 2, 9)[at % 3], 3) if at % 3 else None
        runner.forward([row], token, [at], recorder=recorder)
        assert recorder is None or len(recorder.queries) == (0, 2, 3)[at % 3]
    assert sorted(requested) == [(1, 1, 0), (1, 1, 2), (1, 1, 3)]


@pytest.mark.unit
def test_a_compiler_that_fails_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_, **__):
        raise OSError("no C++ compiler\nfound")

    monkeypatch.setattr(compiled.torch, "compile", broken)
    loaded = prepare_model(build("llama"), name="llama", self_check=False)
    runner = Runner(loaded, max_rows=2, max_length=64, compile=True)
    with pytest.warns(RuntimeWarning, match=r"llama runs without torch.compile \(no C\+\+ comp"):
        assert not runner.warm_up([1], timeout=60)
    row = runner.allocate()
    for at in range(5):
        logits = runner.forward([row], torch.zeros((1, 1), dtype=torch.long), [at]).logits
        assert logits.isfinite().all()


@pytest.mark.unit
def test_without_memory_for_the_whole_cache_passes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = prepare_model(build("llama"), name="llama", self_check=False)
    monkeypatch.setattr(runner_module, "FIRST", 1)
    runner = Runner(loaded, max_rows=2, max_length=64)
    grow = runner.cache.grow

    def limited(pages: int) -> None:
        if pages > 6:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        grow(pages)

    monkeypatch.setattr(runner.cache, "grow", limited)
    with pytest.warns(RuntimeWarning, match=r"llama runs without torch.compile \(there is no mem"):
        runner.start_compiling()
    row = runner.allocate()
    tokens = torch.zeros((1, 20), dtype=torch.long)
    assert runner.forward([row], tokens, [0]).logits.isfinite().all()


@pytest.mark.unit
def test_who_waits_for_a_pass_is_told_when_compiling_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = prepare_model(build("llama"), self_check=False)
    runner = Runner(loaded, max_rows=2, max_length=64, compile=True)
    monkeypatch.setattr(runner._compiled, "request", lambda *_: None)  # never done
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(runner.warm_up([1])), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    runner.stop_compiling()
    waiting.join(30)
    assert found == [False]


@pytest.mark.unit
def test_eager_passes_serve_until_the_compiled_one_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass is asked for only after it was wanted a few times, and nobody waits for it."""
    runner, requested = asking(monkeypatch)
    row = runner.allocate()
    prompt = torch.zeros((1, compiled.WIDEST + 1), dtype=torch.long)
    for _ in range(5):
        runner.forward([row], prompt, [0])
    assert not requested
    for at in range(5):
        runner.forward([row], prompt[:, :1], [at])
    assert requested == [(1, 1, 0)]
