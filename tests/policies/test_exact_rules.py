"""`exact` and `block` as tensors, against the published algorithms on one block at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies import reference
from stet.core.sampling import Sampler, SamplingParams
from stet.policies import Blocks, BlockVerification, Exact
from stet.policies.exact import or_else

RULES = [(Exact(), reference.exact), (BlockVerification(), reference.block)]


def random_batch(seed: int, rows: int = 400, width: int = 5, vocab: int = 7):
    """Blocks of all lengths, drafted from q; rows of p and q with zeros among them."""
    random = np.random.default_rng(seed)

    def simplex(*shape: int) -> np.ndarray:
        weights = random.gamma(0.6, size=(*shape, vocab))
        weights[random.random(weights.shape) < 0.15] = 0
        weights[..., 0] += 1e-3
        return weights / weights.sum(-1, keepdims=True)

    p, q = simplex(rows, width + 1), simplex(rows, width)
    u = random.integers(0, 1 << 24, (rows, width + 1)) / (1 << 24)
    drafted = np.array(
        [[reference.choose(q[b, i], random.random()) for i in range(width)] for b in range(rows)]
    )
    return p, q, drafted, random.integers(0, width + 1, rows).tolist(), u


@pytest.mark.parametrize(("policy", "algorithm"), RULES, ids=["exact", "block"])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_the_published_algorithm(policy, algorithm, seed: int):
    p, q, drafted, lengths, u = random_batch(seed)
    verification = policy.verify(reference.blocks(p, q, drafted, lengths, u))
    found = list(zip(verification.accepted.tolist(), verification.next_token.tolist(), strict=True))
    expected = [
        algorithm(p[b], q[b], drafted[b, :n].tolist(), u[b], u[b, -1])
        for b, n in enumerate(lengths)
    ]
    # A number within rounding of a threshold may be on either side in single precision.
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 1
    assert {accepted for accepted, _ in expected} >= set(range(5))


@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
def test_what_is_behind_a_short_block_does_not_matter(policy):
    p, q, drafted, lengths, u = random_batch(9)
    first = policy.verify(reference.blocks(p, q, drafted, lengths, u))
    for b, n in enumerate(lengths):
        p[b, n + 1 :] = 1 / 7
        q[b, n:] = np.nan
        drafted[b, n:] = 3
    second = policy.verify(reference.blocks(p, q, drafted, lengths, u))
    assert torch.equal(first.accepted, second.accepted)
    assert torch.equal(first.next_token, second.next_token)


@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
def test_equal_distributions_accept_everything(policy):
    p, _, _, _, u = random_batch(4)
    q = p[:, :5].copy()
    drafted = np.array([[reference.choose(q[b, i], u[b, i]) for i in range(5)] for b in range(400)])
    verification = policy.verify(reference.blocks(p, q, drafted, [5] * 400, u[::-1].copy()))
    assert (verification.accepted == 5).all()


def test_an_empty_residual_falls_back_to_the_target():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    residual = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    assert torch.equal(or_else(residual, p), torch.stack([p[0], residual[1]]))


@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
def test_a_rejection_by_rounding_alone_still_draws_a_token_of_the_target(policy):
    # q a hair above p on the drafted token and nowhere below: no residual is left.
    p = np.array([[[0.0, 1.0], [0.5, 0.5]]])
    q = np.array([[[0.0, 1.0 + 1e-6]]])
    u = np.array([[1 - 2.0**-24, 0.7]])
    verification = policy.verify(reference.blocks(p, q, np.array([[1]]), [1], u))
    assert verification.accepted.item() == 0
    assert verification.next_token.item() == 1


@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
def test_greedy_rows_among_sampled_ones_follow_the_targets_first_choice(policy):
    generator = torch.Generator().manual_seed(1)
    rows, width, vocab = 64, 4, 5
    logits = torch.randn(rows, width + 1, vocab, generator=generator)
    best = logits.argmax(-1)
    drafted = best[:, :width].clone()
    wrong = torch.rand(rows, width, generator=generator) < 0.3
    drafted[wrong] = (drafted[wrong] + 1) % vocab
    params = [SamplingParams(temperature=float(row % 2)) for row in range(rows)]
    blocks = Blocks(
        drafted=drafted,
        lengths=torch.full((rows,), width),
        target_logits=logits,
        sampler=Sampler(params, [[]] * rows, vocab, torch.device("cpu")),
        uniforms=lambda slot, n: torch.rand(rows, n, generator=generator),
    )
    verification = policy.verify(blocks)
    for row in range(0, rows, 2):
        accepted = int((~wrong[row]).long().cumprod(0).sum())
        assert verification.accepted[row] == accepted
        assert verification.next_token[row] == best[row, accepted]
