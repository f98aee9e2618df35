"""The transforms: against transformers' own processors, and against one position at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lossless import law
from stet.core.errors import OptionError
from stet.core.sampling import Sampler, SamplingParams, draw, one_hot

CPU = torch.device("cpu")
VOCAB = 12
few = settings(max_examples=60, deadline=None, derandomize=True)

params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 50]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.3, 2.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.1, -2.0]),
    logit_bias=st.sampled_from([{}, {0: 2.0, 5: -3.0}, {1: -math.inf}]),
)
tokens = st.integers(0, VOCAB - 1)
rows = st.lists(
    st.tuples(
        params,
        st.lists(tokens, min_size=1, max_size=6),
        st.lists(tokens, max_size=6),
    ),
    min_size=1,
    max_size=5,
)


def sampler_of(many: list) -> Sampler:
    """The sampler of some rows of parameters, prompt and answer."""
    return Sampler(
        [p for p, _, _ in many],
        [prompt + answer for _, prompt, answer in many],
        VOCAB,
        CPU,
        [answer for _, _, answer in many],
    )


def transformers_probs(
    logits: torch.Tensor, prompt: list[int], answer: list[int], p: SamplingParams
) -> torch.Tensor:
    """The logits that transformers would sample from, if it had penalties of the answer, too."""
    processors = LogitsProcessorList()
    if p.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(p.temperature))
    if p.top_k:
        processors.append(TopKLogitsWarper(min(p.top_k, VOCAB)))
    if p.top_p < 1:
        processors.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        processors.append(MinPLogitsWarper(p.min_p))
    ids = torch.tensor([prompt + answer])
    scores = logits[None].clone()
    for token, bias in p.logit_bias.items():
        scores[0, token] += bias
    if p.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(p.repetition_penalty)(ids, scores)
    counts = torch.bincount(torch.tensor(answer, dtype=torch.long), minlength=VOCAB)
    scores = scores - p.frequency_penalty * counts - p.presence_penalty * (counts > 0)
    return processors(ids, scores)[0].softmax(-1)


@few
@given(rows, st.integers(0, 4), st.integers(0, 10_000))
def test_every_position_of_every_row_is_as_in_transformers(many: list, width: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(len(many), width + 1, VOCAB, generator=generator)
    block = torch.randint(0, VOCAB, (len(many), width), generator=generator)
    sampler = sampler_of(many)
    probs = sampler.probs(sampler.edit(logits, block))
    for row, (p, prompt, before) in enumerate(many):
        for position in range(width + 1):
            answer = before + block[row, :position].tolist()
            here = logits[row, position]
            if p.greedy:
                reference = torch.tensor(law.transformed(here.numpy(), prompt, answer, p))
            else:
                reference = transformers_probs(here, prompt, answer, p)
            torch.testing.assert_close(
                probs[row, position], reference.float(), rtol=1e-4, atol=1e-6
            )


@few
@given(params, st.integers(0, 10_000))
def test_the_law_that_other_tests_rely_on_is_transformers_too(p: SamplingParams, seed: int):
    if p.greedy:
        return
    logits = 2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    ours = law.transformed(logits.numpy(), [1, 2, 2], [2, 3, 3], p)
    reference = transformers_probs(logits, [1, 2, 2], [2, 3, 3], p).double().numpy()
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-6)


@few
@given(rows, st.lists(st.integers(0, VOCAB - 1), max_size=4), st.integers(0, 10_000))
def test_writing_token_by_token_is_the_same_as_a_block(many: list, written: list, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(many), len(written) + 1, VOCAB, generator=generator)
    block = torch.tensor([written] * len(many), dtype=torch.long)
    at_once = sampler_of(many).edit(logits, block)
    sampler = sampler_of(many)
    for position in range(len(written) + 1):
        single = sampler.edit(logits[:, position : position + 1])
        assert torch.equal(single[:, 0], at_once[:, position])
        if position < len(written):
            sampler.mark_written(block[:, position])


@few
@given(rows, st.lists(tokens, max_size=5), st.integers(0, 10_000))
def test_penalties_of_the_answer_are_subtracted_place_by_place(many: list, written: list, seed):
    """Plainly, in numpy: frequency times the count, and presence where there is a count."""
    only = [
        (
            SamplingParams(
                frequency_penalty=p.frequency_penalty, presence_penalty=p.presence_penalty
            ),
            *r,
        )
        for p, *r in many
    ]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(many), len(written) + 1, VOCAB, generator=generator)
    block = torch.tensor([written] * len(many), dtype=torch.long)
    found = sampler_of(only).edit(logits, block).numpy()
    for row, (p, _, answer) in enumerate(only):
        for position in range(len(written) + 1):
            seen = np.array(answer + written[:position], dtype=int)
            counts = np.bincount(seen, minlength=VOCAB)
            wanted = logits[row, position].numpy() - p.frequency_penalty * counts
            wanted -= p.presence_penalty * (counts > 0)
            np.testing.assert_allclose(found[row, position], wanted, rtol=1e-5, atol=1e-6)
            assert (found[row, position] == logits[row, position].numpy())[counts == 0].all()


def test_a_row_does_not_depend_on_the_others():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, VOCAB, generator=generator)
    block = torch.randint(0, VOCAB, (2, 2), generator=generator)
    plain = SamplingParams(temperature=0.7)
    busy = SamplingParams(
        temperature=1.2,
        top_k=4,
        min_p=0.1,
        repetition_penalty=2.0,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        logit_bias={2: 9.0},
    )
    both = Sampler([plain, busy], [[1], [2]], VOCAB, CPU, [[1], [2]])
    alone = Sampler([plain], [[1]], VOCAB, CPU, [[1]])
    found = both.probs(both.edit(logits, block))[:1]
    expected = alone.probs(alone.edit(logits[:1], block[:1]))
    torch.testing.assert_close(found, expected)


def test_logits_pass_untouched_where_nothing_edits_them():
    logits = torch.randn(1, 1, VOCAB)
    assert Sampler([SamplingParams(temperature=0.5)], [[0]], VOCAB, CPU).edit(logits) is logits


@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-40, 1e3])
def test_extreme_temperatures_stay_distributions(temperature: float):
    logits = torch.tensor([[[1.0, 30.0, -4.0, 29.0]]])
    probs = Sampler([SamplingParams(temperature=temperature)], [[0]], 4, CPU).probs(logits)
    assert probs.isfinite().all()
    assert probs.sum().item() == pytest.approx(1)
    assert probs.argmax() == 1


@few
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8).filter(any),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_draw_inverts_the_cumulative_sum(weights: list[float], u: float):
    token = int(draw(torch.tensor([weights]), torch.tensor([u]))[0])
    assert weights[token] > 0
    before, total = math.fsum(weights[:token]), math.fsum(weights)
    assert before <= u * total * (1 + 1e-9) + 1e-12
    assert u * total <= (before + weights[token]) * (1 + 1e-9)


def test_draw_follows_the_weights():
    weights = torch.tensor([[0.0, 3.0, 1.0, 0.0, 4.0]]).expand(8000, -1)
    u = torch.rand(8000, generator=torch.Generator().manual_seed(0))
    counts = Counter(draw(weights, u).tolist())
    assert set(counts) == {1, 2, 4}
    assert stats.chisquare([counts[t] for t in (1, 2, 4)], [3000, 1000, 4000]).pvalue > 1e-4


def test_draw_at_both_ends():
    weights = torch.tensor([[0.0, 1.0, 1.0, 0.0]]).expand(2, -1)
    assert draw(weights, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]


def test_one_hot_is_certain():
    assert one_hot(torch.tensor([[1], [0]]), 3).tolist() == [[[0, 1, 0]], [[1, 0, 0]]]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("presence_penalty", -2.1),
        ("presence_penalty", math.inf),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
    ],
)
def test_values_out_of_range_are_refused_by_name(option: str, value):
    with pytest.raises(OptionError, match=option):
        SamplingParams(**{option: value})


def test_a_bias_beyond_the_vocabulary_is_refused():
    with pytest.raises(OptionError, match="token 12"):
        Sampler([SamplingParams(logit_bias={12: 1.0})], [[0]], VOCAB, CPU)
