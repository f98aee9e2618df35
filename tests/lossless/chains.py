"""Round after round on a model that is a table: many rows at once, with the engine's own numbers.

Each token's distribution depends on the token before it alone, so thousands of rows can be drafted
and verified as tensors, and dependence between consecutive rounds shows with great power.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lossless import law
from stet.core.blocks import DRAFT
from stet.core.sampling import Sampler, SamplingParams, draw
from stet.engine.uniforms import uniforms
from stet.policies import Blocks, TokenPolicy, at

VOCAB = 3
START = 0

Numbers = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
"""From seeds, rounds, text lengths, first slot and count to [B, count] numbers."""


def by_round(seeds: Tensor, rounds: Tensor, lengths: Tensor, first: int, count: int) -> Tensor:
    """As the engine keys its numbers."""
    del lengths
    return uniforms(seeds, rounds, first, count)


def by_position(seeds: Tensor, rounds: Tensor, lengths: Tensor, first: int, count: int) -> Tensor:
    """A fault: a position that is drafted again gets the number that was just used for it."""
    del rounds
    each = [uniforms(seeds, lengths + i, first, 1) for i in range(count)]
    return torch.cat(each, 1)


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """The target's logits and the draft's, [V, V], by the token before."""
    generator = torch.Generator().manual_seed(seed)
    target, draft = torch.randn(2, VOCAB, VOCAB, generator=generator)
    return target, draft


def emitted(
    policy: TokenPolicy, seed: int, *, rows: int, block: int, count: int, numbers: Numbers
) -> Counter:
    """How often each answer of `count` tokens was emitted."""
    target, draft = tables(seed)
    params = [SamplingParams(temperature=1.0)] * rows
    sampler = Sampler(params, [[]] * rows, VOCAB, torch.device("cpu"))
    seeds = torch.arange(rows)
    text = torch.zeros(rows, count + block + 2, dtype=torch.long)
    text[:, 0] = START
    lengths = torch.ones(rows, dtype=torch.long)
    for number in range(count):
        rounds = torch.full((rows,), number)
        # Rows that are done stay where they are; what is written behind them is not looked at.
        active = lengths <= count

        random = partial(numbers, seeds, rounds, lengths)

        previous = [at(text, lengths - 1)]
        probs = []
        u = random(DRAFT, block)
        for step in range(block):
            probs.append(draft[previous[-1]].softmax(-1))
            previous.append(draw(probs[-1], u[:, step]))
        drafted = torch.stack(previous[1:], 1)
        verification = policy.verify(
            Blocks(
                drafted=drafted,
                lengths=torch.full((rows,), block),
                target_logits=target[torch.stack(previous, 1)],
                sampler=sampler,
                uniforms=random,
                full=True,
                draft_probs=torch.stack(probs, 1),
            )
        )
        written = torch.cat([drafted, drafted[:, :1]], 1)
        written.scatter_(1, verification.accepted[:, None], verification.next_token[:, None])
        places = (lengths[:, None] + torch.arange(block + 1)).clamp(max=text.shape[1] - 1)
        text = torch.where(active[:, None], text.scatter(1, places, written), text)
        lengths = torch.where(active, lengths + verification.accepted + 1, lengths)
    return Counter(tuple(row) for row in text[:, 1 : count + 1].tolist())


def target_law(seed: int, count: int) -> law.Law:
    """The probability of each answer under the target alone."""
    p = tables(seed)[0].double().softmax(-1).tolist()
    found: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(range(VOCAB), repeat=count):
        weight = 1.0
        for before, token in itertools.pairwise((START, *tokens)):
            weight *= p[before][token]
        found[tokens] = weight
    return found


def p_value(policy: TokenPolicy, seed: int, block: int, numbers: Numbers = by_round) -> float:
    """How well answers of four tokens, emitted in blocks of the given length, follow the law."""
    counts = emitted(policy, seed, rows=1 << 15, block=block, count=4, numbers=numbers)
    return law.p_value((counts, target_law(seed, 4)))
