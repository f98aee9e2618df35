"""Passes of models with a vocabulary of today: what is asked for is computed, nothing copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from counting import VOCAB, allocations
from stet.core.block import Block
from stet.core.limits import Limits
from stet.core.operations import Draft, Score
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.drafting import ModelDrafter
from stet.engine.runner import Runner
from stet.engine.scoring import score
from stet.models import LoadedModel, prepare_model
from stet.policies import Exact

DRAFTED = 3
WIDTH = 96


@pytest.fixture(scope="module")
def large() -> LoadedModel:
    """A small body under a large head, in the dtype that models are published in."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    return prepare_model(model, name="large", self_check=False)


def sequences(runner: Runner, role: Any, count: int) -> list[TokenSequence]:
    """Sequences of which all but the last tokens are in the cache."""
    found = []
    for place in range(count):
        sequence = TokenSequence(list(range(5 + place, 25 + place)), SamplingParams(), Limits())
        sequence.rows[role] = runner.allocate()
        tokens = torch.tensor([sequence.tokens[:-1]])
        runner.forward([sequence.rows[role]], tokens, [0], logits="none")
        found.append(sequence)
    return found


@pytest.mark.parametrize("batch", [1, 3])
def test_no_pass_copies_the_head(large: LoadedModel, batch: int) -> None:
    """A slice of a pass over two tokens once made `linear` copy the weight for each of its rows."""
    runner = Runner(large, max_rows=4, max_length=64)
    weight = VOCAB * WIDTH * 2
    made = sequences(runner, "draft", batch)
    assert _largest(lambda: ModelDrafter(runner).run([Draft(s, DRAFTED) for s in made])) < weight
    for sequence in made:
        runner.release(sequence.rows["draft"])
    made = sequences(runner, "target", batch)
    scores = [Score(s, Block(DRAFTED, known=[1, 2, 3]), Exact()) for s in made]
    assert _largest(lambda: score(runner, scores)) < weight


def _largest(work: Callable[[], Any]) -> int:
    with torch.inference_mode():
        return max(allocations(work))


def heads(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions the head is asked about, pass by pass, from now on."""
    assert model.head is not None
    forward, seen = model.head.linear.forward, list[int]()

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.numel() // hidden.shape[-1])
        return forward(hidden)

    monkeypatch.setattr(model.head.linear, "forward", counted)
    return seen


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_head_is_asked_about_what_is_wanted(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither about pads of a compiled width, nor about positions that nobody reads."""
    model = prepare_model(tiny.llama(), name="tiny", self_check=False)
    runner = Runner(model, max_rows=2, max_length=64, compile=compiled)
    assert not compiled or runner.warm_up([3])
    rows = [runner.allocate(), runner.allocate()]
    seen = heads(model, monkeypatch)
    block = torch.tensor([[1, 2, 3]])
    both = block.expand(2, -1).contiguous()
    runner.forward(rows[:1], block, [0], logits="none")
    assert seen == []
    alone = runner.forward(rows[:1], block, [0])
    last = runner.forward(rows[:1], block, [0], logits="last")
    together = runner.forward(rows, both, [0, 0], [3, 2], logits="last")
    assert seen == [3, 1, 2]
    torch.testing.assert_close(last.logits, alone.logits[:, 2:])
    torch.testing.assert_close(together.logits[0], alone.logits[0, 2:])
    torch.testing.assert_close(together.logits[1], alone.logits[0, 1:2])


def test_a_head_that_is_not_known_is_asked_about_one_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chunk of a prompt needs no logits; a model can be asked for no fewer than one row."""
    known = prepare_model(tiny.llama(), name="tiny", self_check=False)
    model = replace(known, head=None, body=None)
    seen = heads(known, monkeypatch)
    tokens = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])

    def passes(of: LoadedModel, counts: list[int] | None) -> list[torch.Tensor]:
        runner = Runner(of, max_rows=2, max_length=64)
        rows = [runner.allocate(), runner.allocate()]
        kinds = ("none", "last", "all")
        found = [runner.forward(rows, tokens, [0, 0], counts, logits=k).logits for k in kinds]
        # Logits of pads mean nothing.
        return [*found[:2], *(found[2][b, :n] for b, n in enumerate(counts or [4, 4]))]

    for counts, asked in ((None, [2, 2, 8]), ([4, 4], [2, 2, 8]), ([4, 2], [2, 8, 8])):
        seen.clear()
        found = passes(model, counts)
        assert seen == asked
        for ours, wanted in zip(found, passes(known, counts), strict=True):
            torch.testing.assert_close(ours, wanted)
