"""Stet's own decoder gives the numbers of transformers' module, however its passes are cut."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from dense import DENSE, dense
from families import VOCAB
from stet.engine.attention_capture import Recorder
from stet.engine.runner import Runner
from stet.models import LoadedModel, prepare_model

pytestmark = pytest.mark.unit

LENGTH = 40  # well past the windows
EVERY = pytest.mark.parametrize("kind", DENSE)


@functools.cache
def lean(kind: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    loaded = prepare_model(dense(kind, dtype), name=kind)
    assert loaded.foreign is None
    return loaded


@functools.cache
def foreign(kind: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    loaded = prepare_model(dense(kind, dtype), name=kind, lean=False)
    assert loaded.foreign == "it was asked for"
    return loaded


def prompts(rows: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (rows, LENGTH), generator=generator)


def passes(loaded: LoadedModel) -> list[Tensor]:
    """Logits of passes of every kind: in chunks, rewound, forked, uneven and scattered rows."""
    run = Runner(loaded, max_rows=4, max_length=64)
    tokens, other = prompts(3), prompts(3, seed=2)
    first, second = run.allocate(), run.allocate()
    found = [run.forward([first], tokens[:1, :17], [0]).logits]
    found += [run.forward([first], tokens[:1, 17:26], [17], logits="last").logits]
    run.forward([first], other[:1, 26:31], [26])
    first.valid = 26
    found += [run.forward([first], tokens[:1, 26:29], [26]).logits]
    (third,) = run.fork(first, 1)
    uneven = torch.zeros((3, 5), dtype=torch.long)
    uneven[0, :2], uneven[1], uneven[2, :1] = tokens[0, 29:31], tokens[1, :5], other[0, 29:30]
    result = run.forward([first, second, third], uneven, [29, 0, 29], [2, 5, 1], hidden=True)
    assert result.hidden is not None
    for logits in (result.logits, result.hidden):
        found += [logits[b, :count] for b, count in enumerate((2, 5, 1))]
    for at in range(3):
        block = torch.stack([other[0, 30 + at : 31 + at], tokens[0, 31 + at : 32 + at]])
        found += [run.forward([third, first], block, [30 + at, 31 + at]).logits]
    return found


@EVERY
def test_equal_to_transformers_in_float32(kind: str) -> None:
    for ours, wanted in zip(passes(lean(kind)), passes(foreign(kind)), strict=True):
        torch.testing.assert_close(ours, wanted, atol=3e-5 * float(wanted.abs().max()), rtol=0)
        assert torch.equal(ours.argmax(-1), wanted.argmax(-1))


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_further_from_float32_than_transformers(kind: str, dtype: torch.dtype) -> None:
    """Both round; which of them is nearer to the exact numbers is chance."""
    exact = passes(foreign_of(kind, dtype))
    errors = [
        torch.cat([(a - b).flatten() for a, b in zip(passes(loaded), exact, strict=True)])
        for loaded in (lean(kind, dtype), foreign(kind, dtype))
    ]
    ours, theirs = (float(error.square().mean().sqrt()) for error in errors)
    assert ours < 1.3 * theirs


@functools.cache
def foreign_of(kind: str, dtype: torch.dtype) -> LoadedModel:
    """The model of another dtype, its rounded weights computed with in float32."""
    model = dense(kind, dtype).float()
    for module in model.modules():
        scale = getattr(module, "scalar_embed_scale", None)
        if scale is not None:
            module.embed_scale = torch.tensor(scale).to(dtype).float()
    return prepare_model(model, lean=False)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "qwen3", "phi3-partial"])
def test_the_queries_that_are_captured_are_the_same(kind: str) -> None:
    kept = []
    for loaded in (lean(kind), foreign(kind)):
        recorder = Recorder(2, len(loaded.layers))
        run = Runner(loaded, max_rows=2, max_length=64)
        rows = [run.allocate(), run.allocate()]
        run.forward(rows, prompts(2)[:, :20], [0, 0], [20, 12], recorder=recorder)
        run.forward(rows, prompts(2)[:, 20:21], [20, 12], recorder=recorder)
        kept.append(recorder)
    ours, wanted = kept
    assert ours.layers == wanted.layers
    for query, other in zip(ours.queries, wanted.queries, strict=True):
        torch.testing.assert_close(query[0], other[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(query[1, :, :12], other[1, :, :12], atol=1e-4, rtol=1e-4)


class Counted(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(loaded: LoadedModel) -> int:
    run = Runner(loaded, max_rows=1, max_length=64)
    row = run.allocate()
    run.forward([row], prompts(1), [0])
    with Counted() as counted:
        run.forward([row], prompts(1)[:, :1], [39])
    return counted.count


def test_a_layer_takes_few_operations() -> None:
    two, four = (operations(tiny.loaded(tiny.llama(vocab=VOCAB, layers=n))) for n in (2, 4))
    theirs = operations(prepare_model(tiny.llama(vocab=VOCAB, layers=4), lean=False))
    assert (four - two) / 2 <= 40
    assert four < 0.6 * theirs
