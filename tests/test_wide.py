"""Few passes over a large vocabulary find what plain ones over a small one do."""

from __future__ import annotations

import math

import pytest
import torch

from stet.core import sampling, wide
from stet.core.sampling import Sampler, SamplingParams

SIZES = [wide.LARGE, wide.LARGE + 37, 151_936]
"""With and without a last group that is shorter."""


def rounded(*shape: int, seed: int = 0, scale: float = 4.0) -> torch.Tensor:
    """Logits as half-precision models give them: many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator)).bfloat16().float()


@pytest.mark.parametrize("size", SIZES)
def test_the_largest_is_the_first_of_equals(size: int) -> None:
    values = rounded(3, 2, size)
    values[0, 0, [5, size - 1]] = 99.0
    values[0, 1, size - 1] = 99.0
    values[1, 0, size // 2] = math.nan
    values[1, 1] = 0.0
    values[2, 0] = -math.inf
    found, wanted = wide.peak(values), values.max(-1)
    assert torch.equal(found[1], wanted.indices)
    torch.testing.assert_close(found[0], wanted.values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_best_few(size: int, count: int) -> None:
    values = rounded(2, 3, size)
    found, tokens = wide.best(values, count)
    assert torch.equal(found, values.topk(count, -1).values)
    assert torch.equal(values.gather(-1, tokens), found)
    assert all(len(set(row)) == count for row in tokens.flatten(0, 1).tolist())


def test_totals_of_many_rows_and_of_few() -> None:
    logits = rounded(5, 9, wide.LARGE)
    wanted = logits.log_softmax(-1)
    tokens = torch.tensor([3, 4, 5]).expand(5, 9, -1)
    torch.testing.assert_close(wide.logprobs_of(logits, tokens), wanted[..., 3:6])
    torch.testing.assert_close(wide.logprobs_of(logits[0, 0], tokens[0, 0]), wanted[0, 0, 3:6])
    assert wide.log_total(logits[:0]).shape == (0, 9)


def test_a_rank_counts_what_is_more_probable() -> None:
    logits = rounded(4, 9, wide.LARGE)
    logits[0, 0] = 0.0
    order = logits.argsort(dim=-1, descending=True)
    for rank in (0, 1, 500, wide.LARGE - 1):
        tokens = order[..., rank]
        own = logits.gather(-1, tokens[..., None])
        assert torch.equal(wide.ranks_of(logits, tokens), 1 + (logits > own).sum(-1))
    assert torch.equal(wide.ranks_of(logits, order[..., 0]), torch.ones(4, 9).long())


@pytest.mark.parametrize("size", SIZES)
def test_a_draw_inverts_the_cumulative_sum_and_rare_tokens_keep_their_share(size: int) -> None:
    weights = rounded(64, size).softmax(-1)
    weights[:, ::3] = 0
    weights[0] = 0
    weights[0, size - 1] = 1e-30
    weights[1, 7], weights[1, 8] = 1.0, 1e-9  # a rare token beside a certain one
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(64, generator=generator)
    uniforms[2:4] = torch.tensor([0.0, 1 - 2**-24])
    tokens = wide.draw(weights, uniforms)
    assert tokens[0] == size - 1
    sums = weights.double().cumsum(-1)
    for row, token in enumerate(tokens.tolist()):
        own, total = float(weights[row, token]), float(sums[row, -1])
        assert own > 0
        sought, after = float(uniforms[row]) * total, float(sums[row, token])
        # A group's sum in single precision moves a boundary by a rounding of that group.
        assert after - own - 1e-6 * total <= sought <= after + 1e-6 * total


def test_single_tokens_are_drawn_as_often_as_they_weigh() -> None:
    """Of a group, tokens share its weight exactly, however different their own are."""
    weights = torch.zeros(1, wide.LARGE)
    weights[0, 3], weights[0, 4], weights[0, 700] = 0.5, 1e-7, 0.5 - 1e-7
    steps = (torch.arange(4_000_000, dtype=torch.float64) + 0.5) / 4_000_000
    first = steps[(steps > 0.4999) & (steps < 0.5001)]
    tokens = wide.draw(weights.expand(len(first), -1), first)
    assert set(tokens.tolist()) == {3, 700} or set(tokens.tolist()) == {3, 4, 700}
    assert abs(int((tokens == 3).sum()) - int((first < 0.5).sum())) <= 2


CUTS = [
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"top_p": 0.99},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 200_000},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.8},
    {"top_k": 20, "min_p": 0.1},
    {"top_p": 0.95, "min_p": 0.01},
    {"top_k": 30, "top_p": 0.7, "min_p": 0.02},
    # Here `min_p` takes away many of what `top_k` leaves, and `top_p` counts them all the same.
    {"top_k": 50, "top_p": 0.9, "min_p": 0.2},
    {"top_k": 5, "top_p": 0.6, "min_p": 0.2},
]


@pytest.mark.parametrize("size", [30, 64, 1024, wide.LARGE + 37])
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_cutting_without_sorting_keeps_what_sorting_keeps(
    cut: dict, scale: float, size: int
) -> None:
    """The same tokens, also where many are equally probable, and the same probabilities."""
    params = [SamplingParams(temperature=0.8, **cut), SamplingParams(temperature=0.8)]
    sampler = Sampler(params, [[0], [0]], size, torch.device("cpu"))
    probs = (rounded(2, 3, size, scale=scale) / 0.8).softmax(-1)
    wanted = wide.truncate_sorted(probs, sampler._cuts)
    found = sampler._truncate(probs.clone())
    assert torch.equal(found[0] > 0, wanted[0] > 0)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-9)
    assert torch.equal(found[1], probs[1]), "a row that is not cut"
    # All of a batch, each in a way of its own.
    several = [SamplingParams(temperature=0.8, **cut), SamplingParams(temperature=0.7, top_p=0.5)]
    sampler = Sampler(several, [[0], [0]], size, torch.device("cpu"))
    found = sampler._truncate(probs.clone())
    wanted = wide.truncate_sorted(probs, sampler._cuts)
    assert torch.equal(found > 0, wanted > 0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)


def test_few_likely_tokens_are_cut_without_looking_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a usual distribution nothing is sorted; of one without likely tokens, that alone is."""
    size = wide.LARGE
    sampler = Sampler(
        [SamplingParams(temperature=1.0, top_p=0.9)] * 2, [[0], [0]], size, torch.device("cpu")
    )
    logits = torch.zeros(2, 1, size)
    logits[0, 0, :5] = 12.0
    calls: list[int] = []
    truncate = sampling.truncate
    monkeypatch.setattr(
        sampling, "truncate", lambda probs, *rest: calls.append(1) or truncate(probs, *rest)
    )
    probs = sampler.probs(logits)
    assert len(calls) == 1
    assert int((probs[0] > 0).sum()) == 5
    assert int((probs[1] > 0).sum()) in range(int(0.9 * size) - 2, int(0.9 * size) + 3)


def test_no_numbers_pass_through() -> None:
    """They are found out where logits are looked at, and fail their own request alone."""
    size = wide.LARGE
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=5)
    sampler = Sampler([params, params], [[0], [0]], size, torch.device("cpu"))
    logits = rounded(2, 1, size)
    logits[0, 0, 9] = math.nan
    probs = sampler.probs(logits)
    assert probs[0].isnan().any()
    assert probs[1].isfinite().all()
    assert 0 <= int(wide.draw(probs[:, 0], torch.tensor([0.5, 0.5]))[0]) < size


def test_a_vocabulary_of_today_is_penalised_where_it_was_answered() -> None:
    size = 151_936
    params = [SamplingParams(frequency_penalty=0.5, presence_penalty=0.25), SamplingParams()]
    histories, answers = [[5, 3, 3, 9], [1]], [[3, 3, 9], [1]]
    sampler = Sampler(params, histories, size, torch.device("cpu"), answers)
    logits = rounded(2, 3, size)
    found = sampler.edit(logits, torch.tensor([[7, 3], [2, 2]]))
    assert torch.equal(found[1], logits[1])
    for position, counts in enumerate([{3: 2, 9: 1}, {3: 2, 9: 1, 7: 1}, {3: 3, 9: 1, 7: 1}]):
        wanted = logits[0, position].clone()
        for token, count in counts.items():
            wanted[token] -= 0.5 * count
            wanted[token] -= 0.25
        assert torch.equal(found[0, position], wanted)


def test_a_vocabulary_of_today_is_penalised_where_it_was_written() -> None:
    size = 151_936
    params = [SamplingParams(repetition_penalty=1.5, logit_bias={7: -2.0}), SamplingParams()]
    sampler = Sampler(params, [[3, 3, 9], [1]], size, torch.device("cpu"))
    logits = rounded(2, 3, size)
    before = logits.clone()
    found = sampler.edit(logits, torch.tensor([[7, 3], [2, 2]]))
    assert torch.equal(logits, before), "raw logits are needed after it"
    assert torch.equal(found[1], before[1])
    changed = [(found[0, t] != before[0, t]).nonzero()[:, 0].tolist() for t in range(3)]
    assert changed == [[3, 7, 9], [3, 7, 9], [3, 7, 9]]

    def penalised(value: float) -> float:
        return value / 1.5 if value > 0 else value * 1.5

    assert float(found[0, 0, 7]) == float(before[0, 0, 7] - 2)
    for position in (1, 2):
        wanted = penalised(float(before[0, position, 7] - 2))
        assert float(found[0, position, 7]) == pytest.approx(wanted)
