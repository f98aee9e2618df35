"""Signals of confidence, against plain computations from the raw distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stet.core import block
from stet.core.block import EMPTY, Block, DraftBatch, Statistics
from stet.core.needs import Need
from stet.core.sequence import TokenSequence
from stet.policies import Candidate
from stet.signals import CONFIDENCE, SIGNALS, agreeing
from stet.signals.confidence import LOW, WORST

VALUES = st.floats(-12, 12, width=32)
"""Logits that leave every probability above the smallest float32."""


def plain(logits: list[float], token: int) -> tuple[float, float, float]:
    """Log-prob, entropy and margin of one position, in double precision."""
    highest = max(logits)
    total = math.fsum(math.exp(x - highest) for x in logits)
    logprobs = [x - highest - math.log(total) for x in logits]
    entropy = -math.fsum(math.exp(x) * x for x in logprobs if x > -math.inf)
    first, second = sorted(logprobs, reverse=True)[:2]
    return logprobs[token], entropy, first - second


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[list[float]]], list[list[int]], list[int]]:
    """Logits [B, K, V] with some tokens impossible, the tokens drawn, and lengths of blocks."""
    rows, width, vocab = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(3, 7))
    logits, tokens = [], []
    for _ in range(rows):
        logits.append([])
        tokens.append([])
        for _ in range(width):
            position = draw(st.lists(VALUES, min_size=vocab, max_size=vocab))
            token = draw(st.integers(0, vocab - 1))
            for impossible in draw(st.sets(st.integers(0, vocab - 1), max_size=vocab - 2)):
                if impossible != token and sum(x > -math.inf for x in position) > 2:
                    position[impossible] = -math.inf
            logits[-1].append(position)
            tokens[-1].append(token)
    lengths = [draw(st.integers(0, width)) for _ in range(rows)]
    return logits, tokens, lengths


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches())
def test_statistics_are_those_of_the_raw_distributions(
    batch: tuple[list[list[list[float]]], list[list[int]], list[int]],
):
    logits, tokens, lengths = batch
    drafted = DraftBatch(torch.tensor(tokens), logits=torch.tensor(logits))
    for row, length in enumerate(lengths):
        drawn = Block(length, drafted, row)
        found = drawn.statistics
        assert found is not None
        by_hand = [plain(logits[row][i], tokens[row][i]) for i in range(length)]
        for name, column in (("logprobs", 0), ("entropies", 1), ("margins", 2)):
            assert getattr(found, name) == pytest.approx([x[column] for x in by_hand], abs=2e-5)
        assert found.logprobs == pytest.approx(drawn.logprobs, abs=1e-6)


def test_impossible_tokens_leave_every_number_finite():
    logits = torch.tensor([[[0.0, -math.inf, 1.0, -math.inf], [200.0, -200.0, 0.0, 0.0]]])
    found = Block(2, DraftBatch(torch.tensor([[2, 0]]), logits=logits)).statistics
    assert found is not None
    for numbers in (found.logprobs, found.entropies, found.margins):
        assert all(map(math.isfinite, numbers))
    assert found.entropies[1] == pytest.approx(0.0, abs=1e-6)


def test_a_block_without_logits_has_no_statistics():
    assert Block(1, DraftBatch(torch.tensor([[2]]))).statistics is None
    assert Block(2, known=[3, 4]).statistics is None
    assert EMPTY.statistics is None


def test_statistics_are_computed_once_for_the_whole_batch_and_only_what_is_read(
    monkeypatch: pytest.MonkeyPatch,
):
    computed = []
    for name in ("_logprobs", "_entropies", "_margins"):
        function = getattr(block, name)

        def counted(*arguments: torch.Tensor, name: str = name, function: Any = function):
            computed.append(name)
            return function(*arguments)

        monkeypatch.setattr(block, name, counted)
    batch = DraftBatch(torch.zeros(2, 3, dtype=torch.long), logits=torch.zeros(2, 3, 5))
    first, second = Block(2, batch, 0).statistics, Block(3, batch, 1).statistics
    assert first is not None
    assert second is not None
    assert not computed
    assert first.entropies == pytest.approx([math.log(5)] * 2)
    assert second.entropies == pytest.approx([math.log(5)] * 3)
    assert Statistics.join([first, second], 4).entropies == [*first.entropies, *first.entropies]
    assert computed == ["_entropies"]
    assert second.margins == [0.0] * 3
    assert first.logprobs == pytest.approx([-math.log(5)] * 2)
    assert computed == ["_entropies", "_margins", "_logprobs"]


@pytest.mark.parametrize("vocab", [3, 128, 129, 192, 1000, 4099])
def test_margins_over_any_vocabulary(vocab: int):
    """Large ones are searched in groups: the best two in one group, in two, or left over."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(2, 40, vocab, generator=generator)
    logits[0, :3] = 0.0  # equals
    for position, pair in enumerate([(0, 1), (0, vocab - 1), (vocab - 2, vocab - 1)], start=3):
        logits[0, position, list(pair)] = torch.tensor([90.0, 88.5])
    found = DraftBatch(torch.zeros(2, 40, dtype=torch.long), logits=logits)
    best = logits.topk(2, -1).values
    wanted = (best[..., 0] - best[..., 1]).tolist()
    for row in range(2):
        assert Block(40, found, row).statistics.margins == wanted[row]
    assert wanted[0][:6] == [0.0] * 3 + [1.5] * 3


# Of a whole step

numbers = st.lists(
    st.tuples(st.floats(-20, 0), st.floats(0, 10), st.floats(0, 20)), min_size=1, max_size=40
)


def of(values: list[tuple[float, float, float]]) -> Statistics:
    return Statistics(*(list(column) for column in zip(*values, strict=True)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(numbers, st.randoms(use_true_random=False))
def test_each_signal_is_what_its_name_says(values: list[tuple[float, float, float]], random):
    count = len(values)
    logprobs, entropies, margins = (sorted(column) for column in zip(*values, strict=True))
    expected = {
        "min_logprob": logprobs[0],
        "sum_logprob": sum(logprobs),
        "mean_logprob": sum(logprobs) / count,
        "low_logprob": logprobs[int(LOW * (count - 1))],
        "worst_logprob": sum(logprobs[:WORST]) / min(WORST, count),
        "max_entropy": entropies[-1],
        "mean_entropy": sum(entropies) / count,
        "min_margin": margins[0],
    }
    assert expected.keys() == CONFIDENCE.keys()
    random.shuffle(values)  # none looks at the order
    for name, signal in CONFIDENCE.items():
        assert signal(of(values)) == pytest.approx(expected[name])


def test_a_low_quantile_forgives_doubt_about_one_token_of_many():
    long = of([(-5.0, 1.0, 1.0), *[(-0.1, 1.0, 1.0)] * 10])
    assert CONFIDENCE["low_logprob"](long) == -0.1
    assert CONFIDENCE["min_logprob"](long) == -5.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=1, max_size=4))
def test_signals_measure_every_candidate_and_map_it_to_the_unit_interval(many: list):
    candidates = [Candidate(TokenSequence([1]), "a", of(values)) for values in many]
    for name, function in CONFIDENCE.items():
        signal = SIGNALS[name]
        found = signal.measure(candidates)
        assert found == [function(of(values)) for values in many]
        units = [signal.unit(value) for value in found]
        assert all(0 <= unit <= 1 for unit in units)
        # More of it is better or worse, as the sign says.
        ranked = sorted(zip(found, units, strict=True), key=lambda pair: signal.sign * pair[0])
        assert [unit for _, unit in ranked] == sorted(units)


def test_signals_say_what_they_need():
    assert all(SIGNALS[name].needs == {Need.DRAFT_LOGPROBS} for name in CONFIDENCE)
    assert all(SIGNALS[name].about for name in SIGNALS)
    assert all(name == signal.name for name, signal in SIGNALS.items())
    assert SIGNALS["agreement"].needs == set()


# Agreement


def test_agreement_is_the_share_that_says_the_same():
    texts = ["x = 3", "X  = 3\n", "x = 4", "x = 3"]
    assert agreeing(texts) == [0.75, 0.75, 0.25, 0.75]
    candidates = [Candidate(TokenSequence([1]), t) for t in texts]
    assert SIGNALS["agreement"].measure(candidates) == [0.75, 0.75, 0.25, 0.75]
    assert agreeing(["only"]) == [1.0]
    assert agreeing([]) == []
