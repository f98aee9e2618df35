"""Grounding, against a slow reference written from its definition and transformers' attention."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from families import FAMILIES, VOCAB, build
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.core.needs import AttentionCapture
from stet.core.operations import Draft
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine import runner as runner_module
from stet.engine.attention_capture import Recorder
from stet.engine.drafting import ModelDrafter
from stet.engine.runner import Runner
from stet.models import prepare_model
from stet.policies import Exact, SpecGuard
from stet.programs import LocalTarget, stepwise
from stet.signals.base import SIGNALS
from stet.signals.grounding import GROUNDING, PUBLISHED, Grounding

pytestmark = pytest.mark.unit

TOLERANCE = 2e-5
ENDS = tuple("adgjmpsvy")
"""Every few tokens of the tiny models' text one of these letters ends a step."""

OPTIONS = [
    Grounding(),
    Grounding(layers=1, statistic="mean"),
    Grounding(layers=2, statistic="low"),
    Grounding(layers=9),  # more than any of the models has
    Grounding(residual=True),
    PUBLISHED,
    Grounding(zero_below=0.03, zero_in="mean"),
    Grounding(zero_below=0.03, renormalise=True),
    Grounding(zero_below=0.02, zero_in="mean", renormalise=True, residual=True),
    Grounding(sink=True, statistic="mean"),
    Grounding(sink=True, zero_below=0.03, residual=True, layers=2),
]


# The reference


@functools.cache
def alone(family: str) -> Any:
    model = build(family)
    model.set_attn_implementation("eager")
    return model


def weights(model: Any, tokens: list[int]) -> list[Tensor]:
    """Attention weights of each layer [heads, N, N], by transformers alone."""
    # A text of some length, so that longrope takes the factors that a long context gets.
    text, count = torch.tensor([tokens + [0] * 40]), len(tokens)
    with torch.inference_mode():
        out = model(input_ids=text, output_attentions=True, use_cache=False)
    return [layer[0, :, :count, :count].double() for layer in out.attentions]


def prepared(layer: Tensor, options: Grounding) -> Tensor:
    """[N, N]: a layer's matrix over positions, before rows of the context are absorbing."""
    if options.zero_in == "heads":
        layer = torch.where(layer < options.zero_below, 0, layer)
    matrix = layer.mean(0)
    if options.zero_in == "mean":
        matrix = torch.where(matrix < options.zero_below, 0, matrix)
    for row in matrix:
        if options.sink:
            row[0] = 0
        if options.sink or options.renormalise:
            row /= float(row.sum()) or 1.0
    if options.residual:
        matrix = 0.5 * matrix + 0.5 * torch.eye(len(matrix))
    return matrix


def slow(model: Any, tokens: list[int], context: int, options: Grounding) -> list[float]:
    """The grounding of each token after the first `context`, with whole matrices and loops."""
    layers = [prepared(layer, options) for layer in weights(model, tokens)][-options.layers :]
    absorbing = []
    for matrix in layers:
        matrix = matrix.clone()
        for position in range(context):
            matrix[position] = torch.eye(len(matrix))[position]
        absorbing.append(matrix)
    values = []
    for token in range(context, len(tokens)):
        row = layers[-1][token - 1]
        for matrix in reversed(absorbing[:-1]):
            row = row @ matrix
        values.append(float(row[:context].sum()))
    return values


def summary(values: list[float], options: Grounding) -> float:
    if options.statistic == "mean":
        return sum(values) / len(values)
    values = sorted(values)
    return values[0 if options.statistic == "min" else math.floor(0.1 * (len(values) - 1))]


def near(options: Grounding) -> float:
    """A tolerance: weights of 4 heads at the floor may be rounded to either side of it."""
    return 2e-4 + options.zero_below / 4


def rows_of(model: Any, tokens: list[int], context: int, floor: float) -> Tensor:
    """The attention that `Candidate.attention` should give for a floor."""
    layers = [torch.where(w < floor, 0, w).mean(0) for w in weights(model, tokens)]
    return torch.stack(layers)[:, context - 1 : -1, :-1]


def prompt(length: int, seed: int = 3) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (length,), generator=generator).tolist()


# The computation


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("context", "length"), [(1, 2), (1, 8), (20, 1), (20, 13)])
def test_a_step_is_measured_as_defined(options: Grounding, context: int, length: int) -> None:
    model, tokens = alone("llama"), prompt(context + length)
    floor = options.zero_below if options.zero_in == "heads" else 0.0
    rows = rows_of(model, tokens, context, floor)[-options.layers :]
    wanted = slow(model, tokens, context, options)
    assert options.tokens(rows, context).tolist() == pytest.approx(wanted, abs=TOLERANCE)
    assert options.step(rows, context) == pytest.approx(summary(wanted, options), abs=TOLERANCE)


@pytest.mark.parametrize("residual", [False, True])
def test_only_the_steps_own_block_matters_while_rows_sum_to_one(residual: bool) -> None:
    context, length = 11, 9
    rows = rows_of(alone("llama"), prompt(context + length), context, 0.0)
    among = torch.zeros(3, length, length, dtype=rows.dtype)
    among[:, :, 1:] = rows[:, :, context:]
    if residual:
        own = torch.eye(length)
        own[0, 0] = 0  # the position of row 0 is part of the context
        among = 0.5 * among + 0.5 * own
    wanted = 1 - (among[2] @ among[1] @ among[0]).sum(1)
    found = Grounding(residual=residual).tokens(rows, context)
    torch.testing.assert_close(found.double(), wanted, atol=TOLERANCE, rtol=0)
    assert float(found[0]) == pytest.approx(1)


def test_the_first_token_of_a_plain_step_is_grounded_and_zeroing_takes_away() -> None:
    rows = rows_of(alone("llama"), prompt(30), 20, 0.0)
    plain = Grounding().tokens(rows, 20)
    zeroed = Grounding(zero_below=0.05, zero_in="mean").tokens(rows, 20)
    assert float(plain[0]) == pytest.approx(1)
    assert (zeroed <= plain + 1e-6).all()
    assert float(zeroed[0]) < 1


def test_unknown_options_are_refused() -> None:
    for options in (
        {"layers": 0},
        {"statistic": "max"},
        {"zero_below": 1.0},
        {"zero_below": -0.1},
        {"zero_in": "rows"},
    ):
        with pytest.raises(OptionError, match=next(iter(options))):
            Grounding(**options)


def test_the_published_settings() -> None:
    signal = SIGNALS["grounding"]
    assert Grounding(layers=3, statistic="min", zero_below=0.01, zero_in="heads") == PUBLISHED
    assert signal.capture == AttentionCapture(3, frozenset({0.01}))
    assert signal.sign == 1
    assert set(GROUNDING) <= set(SIGNALS)


def test_attention_captures_join() -> None:
    assert AttentionCapture.union([]) is None
    assert AttentionCapture.union([None, None]) is None
    joined = AttentionCapture.union(
        [AttentionCapture(1), None, AttentionCapture(3, frozenset({0.01}))]
    )
    assert joined == AttentionCapture(3, frozenset({0.0, 0.01}))
    policy = SpecGuard(signals=("min_logprob", "grounding", "grounding_mean"))
    assert policy.capture == joined
    assert SpecGuard().capture is None


# What drafting captures


def drafted(
    family: str,
    lengths: list[int],
    counts: list[int],
    capture: list[AttentionCapture | None],
    **model: Any,
) -> tuple[list[list[int]], list[Any]]:
    """A batch of drafts after prompts of the given lengths; texts and blocks."""
    ours = prepare_model(build(family, **model), name=family, role="draft", self_check=False)
    runner = Runner(ours, max_rows=len(lengths), max_length=500)
    sequences = [TokenSequence(prompt(n, seed=n)) for n in lengths]
    for sequence in sequences:
        row = sequence.rows["draft"] = runner.allocate()
        if len(sequence.tokens) > 2:
            runner.forward([row], torch.tensor([sequence.tokens[:-2]]), [0])
    drafts = [
        Draft(s, count, capture=w) for s, count, w in zip(sequences, counts, capture, strict=True)
    ]
    with torch.inference_mode():
        blocks = ModelDrafter(runner).run(drafts)
    texts = [s.tokens + b.tokens for s, b in zip(sequences, blocks, strict=True)]
    return texts, blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_drafting_keeps_the_attention_of_every_family(family: str) -> None:
    """A ragged batch: windows are passed, rows end early, one prompt has a single token."""
    lengths, counts = [30, 1, 12, 2], [9, 6, 3, 1]
    texts, blocks = drafted(
        family, lengths, counts, [AttentionCapture(2, frozenset({0.0, 0.02}))] * 4
    )
    for text, block, context in zip(texts, blocks, lengths, strict=True):
        for floor in (0.0, 0.02):
            wanted = rows_of(alone(family), text, context, floor)[-2:]
            found = block.attention[floor]
            assert found.shape[:2] == wanted.shape[:2]
            width = wanted.shape[2]
            torch.testing.assert_close(found[..., :width].double(), wanted, atol=1e-4, rtol=0)
            assert not found[..., width:].any()


def test_rows_of_any_pages_and_a_cache_that_grows(monkeypatch) -> None:
    monkeypatch.setattr(runner_module, "FIRST", 1)
    ours = prepare_model(build("qwen3"), name="qwen3", role="draft", self_check=False)
    runner = Runner(ours, max_rows=3, max_length=500)
    rows = [runner.allocate() for _ in range(3)]
    sequences = [TokenSequence(prompt(n, seed=n)) for n in (250, 9)]
    for sequence, row in zip(sequences, (rows[0], rows[2]), strict=True):
        sequence.rows["draft"] = row
        runner.forward([row], torch.tensor([sequence.tokens[:-2]]), [0])
    with torch.inference_mode():
        blocks = ModelDrafter(runner).run(
            [Draft(s, 12, capture=AttentionCapture(3)) for s in sequences]
        )
    assert runner.cache.pages > 4
    for sequence, block in zip(sequences, blocks, strict=True):
        text = sequence.tokens + block.tokens
        wanted = rows_of(alone("qwen3"), text, len(sequence.tokens), 0.0)
        found = block.attention[0.0][..., : wanted.shape[2]]
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=0)


def test_nothing_is_kept_unless_asked_for() -> None:
    _, blocks = drafted("llama", [8, 5], [3, 3], [None, None])
    assert [block.attention for block in blocks] == [None, None]
    # What one request asks for, another in its batch may get as well.
    texts, blocks = drafted("llama", [8, 5], [3, 3], [None, AttentionCapture(1)])
    wanted = rows_of(alone("llama"), texts[1], 5, 0.0)[-1:]
    found = blocks[1].attention[0.0][..., : wanted.shape[2]]
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


def test_a_model_in_bfloat16() -> None:
    dtype = torch.bfloat16
    texts, blocks = drafted("qwen3", [25], [8], [AttentionCapture(3)], dtype=dtype)
    model = build("qwen3", dtype=dtype)
    model.set_attn_implementation("eager")
    wanted = rows_of(model, texts[0], 25, 0.0)
    found = blocks[0].attention[0.0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.double(), wanted, atol=0.05, rtol=0)


def test_a_pass_keeps_the_queries_of_its_last_layers() -> None:
    ours = prepare_model(build("llama"), name="llama", role="draft", self_check=False)
    runner = Runner(ours, max_rows=1, max_length=50)
    row = runner.allocate()
    for capture, layers in ((2, [1, 2]), (9, [0, 1, 2])):
        recorder = Recorder(capture, 3)
        for _ in range(2):
            runner.forward([row], torch.tensor([prompt(4)]), [0], recorder=recorder)
        assert [of.layer for of in recorder.layers] == layers
        assert [query.shape for query in recorder.queries] == [(1, 4, 4, 8)] * 2 * len(layers)


# Through the engine


@dataclass(frozen=True)
class Witness(SpecGuard):
    """Records what it is shown."""

    def judge(self, step):
        for candidate in step.candidates:
            values = {s: SIGNALS[s].measure([candidate])[0] for s in self.signals}
            context = candidate.sequence.prompt_length
            seen.append((step.index, list(candidate.sequence.tokens), context, values))
        return (yield from super().judge(step))


seen: list[tuple[int, list[int], int, dict[str, float]]] = []


def answers(
    family: str,
    policy: SpecGuard,
    *,
    chunk: int = 5,
    prompts: tuple[int, ...] = (1, 17, 6),
    seed: int = 0,
) -> list[list[int]]:
    """Answers to a few prompts at a time, in steps of random models."""
    seen.clear()
    machine = tiny.engine(build(family, seed=9), build(family), rows=16, max_length=200)
    limits = Limits(max_new_tokens=40, chunk=chunk)
    requests = [
        tiny.request(
            prompt(n, seed=n),
            policy,
            limits,
            SamplingParams(seed=seed + n),
            program=lambda sequence, policy: stepwise(sequence, policy, LocalTarget(Exact())),
            decoder=tiny.Letters(),
        )
        for n in prompts
    ]
    for item in requests:
        item.rows = policy.candidates + 1
    return tiny.run(machine, requests)


SAMPLED: dict[str, Any] = {
    "candidates": 3,
    "temperature": 3.0,
    "delimiter": ENDS,
    "step_tokens": 13,
}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("chunk", [3, 16])
def test_steps_of_an_answer_are_measured_as_defined(family: str, chunk: int) -> None:
    """Candidates of ragged lengths in one batch, first steps and later ones, several chunks."""
    policy = Witness(signals=tuple(GROUNDING), threshold=0.5, **SAMPLED)
    answers(family, policy, chunk=chunk)
    assert any(index > 0 for index, *_ in seen)
    lengths = {len(tokens) - context for _, tokens, context, _ in seen}
    assert len(lengths) > 3
    assert max(lengths) > 2 * 3
    for _, tokens, context, values in seen:
        for name, (_, options) in GROUNDING.items():
            wanted = summary(slow(alone(family), tokens, context, options), options)
            assert values[name] == pytest.approx(wanted, abs=near(options))


def test_measuring_changes_no_token() -> None:
    """Decisions are the same with the signal computed (at no weight) and without."""
    for changes in ({}, SAMPLED):
        base: dict[str, Any] = {"delimiter": ENDS, "threshold": 0.3} | changes
        without = answers("llama", SpecGuard(signals=("mean_logprob",), **base))
        signals = ("mean_logprob", "grounding", "grounding_mean")
        policy = SpecGuard(signals=signals, weights=(1.0, 0.0, 0.0), **base)
        assert answers("llama", policy) == without


def test_a_batch_of_policies_that_ask_for_different_things() -> None:
    machine = tiny.engine(build("qwen3", seed=9), build("qwen3"), rows=16, max_length=200)
    policies = [
        Witness(signals=("grounding_mean",), delimiter=ENDS),
        SpecGuard(delimiter=ENDS),
        Witness(signals=("grounding",), delimiter=ENDS),
    ]
    seen.clear()
    requests = [
        tiny.request(
            prompt(n, seed=n),
            policy,
            Limits(max_new_tokens=24, chunk=4),
            program=lambda sequence, policy: stepwise(sequence, policy, LocalTarget(Exact())),
            decoder=tiny.Letters(),
        )
        for n, policy in zip((4, 9, 6), policies, strict=True)
    ]
    tiny.run(machine, requests)
    names = {name for *_, values in seen for name in values}
    assert names == {"grounding_mean", "grounding"}
    for _, tokens, context, values in seen:
        for name, value in values.items():
            options = GROUNDING[name][1]
            wanted = summary(slow(alone("qwen3"), tokens, context, options), options)
            assert value == pytest.approx(wanted, abs=near(options))


def test_the_signal_decides() -> None:
    """Every step is accepted at a threshold of 0; above the largest grounding none is."""
    for threshold, accepted in ((0.0, True), (1.0, False)):
        policy = SpecGuard(signals=("grounding",), threshold=threshold, delimiter=ENDS)
        machine = tiny.engine(build("llama", seed=9), build("llama"), rows=4, max_length=200)
        item = tiny.request(
            prompt(9),
            policy,
            Limits(max_new_tokens=20, room=180),
            program=lambda sequence, policy: stepwise(sequence, policy, LocalTarget(Exact())),
            decoder=tiny.Letters(),
        )
        tiny.run(machine, [item])
        records = item.sequence.steps
        assert {record.decision == "accepted" for record in records} == {accepted}
        assert all(0 <= record.signals["grounding"] <= 1 for record in records)
        assert all(a.position < b.position for a, b in itertools.pairwise(records))
