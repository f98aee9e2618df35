"""One verification at a time: the law of the first tokens, on vocabularies that can be enumerated.

Distributions depend on the whole prefix, so a rule that looks at the wrong position is found out.
What a verification emits is continued from the target's own law; then the first tokens must follow
the target's law exactly, whatever the draft.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from lossless import law
from stet.policies import BlockVerification, Exact, TokenPolicy
from stet.testing import KINDS, World, draft_blocks, make_world
from stet.testing.lossless import emit

ROWS = 8192
LENGTHS = (1, 2, 3, 5)
TEMPERATURES = (0.6, 1.0, 1.5)
POLICIES: tuple[TokenPolicy, ...] = (Exact(), BlockVerification())


def accepted_by_exact(world: World, path: tuple[int, ...]) -> list[float]:
    """The probability of accepting 0, 1, ... tokens of a drafted path, token by token."""
    law_of_accepted, accepted = [], 1.0
    for i, token in enumerate(path):
        ratio = min(1.0, world.p[path[:i]][token] / world.q[path[:i]][token])
        law_of_accepted.append(accepted * (1 - ratio))
        accepted *= ratio
    return [*law_of_accepted, accepted]


def accepted_by_block(world: World, path: tuple[int, ...]) -> list[float]:
    """The probability of accepting 0, 1, ... tokens of a path by Sun et al., algorithm 2."""
    joint, accepts = 1.0, []
    for i in range(1, len(path) + 1):
        before, token = path[: i - 1], path[i - 1]
        joint = min(1.0, joint * world.p[before][token] / world.q[before][token])
        if i == len(path):
            accepts.append(joint)
        else:
            left = np.maximum(joint * world.p[path[:i]] - world.q[path[:i]], 0).sum()
            accepts.append(float(left / (left + 1 - joint)) if left + 1 - joint > 0 else 0.0)
    # The longest accepted prefix counts, whatever became of the shorter ones.
    law_of_accepted, none_longer = [], 1.0
    for accept in reversed(accepts):
        law_of_accepted.append(none_longer * accept)
        none_longer *= 1 - accept
    return [none_longer, *reversed(law_of_accepted)]


def law_of_accepted(world: World, length: int, given_path) -> dict[int, float]:
    """The law of how much is accepted, over all drafted paths."""
    total = dict.fromkeys(range(length + 1), 0.0)
    for path in itertools.product(range(world.vocab_size), repeat=length):
        weight = 1.0
        for i, token in enumerate(path):
            weight *= float(world.q[path[:i]][token])
        if weight > 0:
            for accepted, probability in enumerate(given_path(world, path)):
                total[accepted] += weight * probability
    return total


CASES = list(itertools.product(KINDS, LENGTHS, TEMPERATURES, POLICIES))
ALPHA = law.FAMILY_ALPHA / (3 * len(CASES))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
def test_first_tokens_and_accepted_lengths_follow_their_laws(kind: str, policy: TokenPolicy):
    given_path = accepted_by_exact if isinstance(policy, Exact) else accepted_by_block
    for number, (length, temperature) in enumerate(itertools.product(LENGTHS, TEMPERATURES)):
        vocab = 5 if length < 3 else 3
        seed = 100 * KINDS.index(kind) + number
        world = make_world(
            kind, vocab_size=vocab, length=max(length, 2), temperature=temperature, seed=seed
        )
        blocks = draft_blocks(world, policy, torch.full((ROWS,), length), seed + 1)
        verification = policy.verify(blocks)

        count = min(length + 1, 3)
        counts = emit(world, blocks, verification, count, seed + 2)
        expected = world.law(count)
        assert law.p_value((counts, expected)) > ALPHA, (length, temperature)
        bound = law.total_variation_bound(expected, ROWS, ALPHA)
        assert law.total_variation(counts, expected) < bound

        accepted = Counter(verification.accepted.tolist())
        lengths = law_of_accepted(world, length, given_path)
        if kind == "equal":
            assert accepted[length] == ROWS
        else:
            assert law.p_value((accepted, lengths)) > ALPHA, (length, temperature)


@pytest.mark.parametrize("kind", KINDS)
def test_block_accepts_at_least_as_much_as_exact(kind: str):
    for seed in range(20):
        world = make_world(kind, length=4, seed=seed)
        token_by_token = law_of_accepted(world, 4, accepted_by_exact)
        as_a_block = law_of_accepted(world, 4, accepted_by_block)

        def mean(lengths: dict[int, float]) -> float:
            return sum(accepted * probability for accepted, probability in lengths.items())

        assert sum(as_a_block.values()) == pytest.approx(1)
        assert mean(as_a_block) >= mean(token_by_token) - 1e-12


def test_block_accepts_more_than_exact_where_ratios_alternate():
    # The gain is real, not only allowed: the same blocks, verified by both.
    world, lengths = make_world("random", length=5, seed=7), torch.full((ROWS,), 5)
    exact, block = (
        policy.verify(draft_blocks(world, policy, lengths, 8)).accepted.float().mean()
        for policy in POLICIES
    )
    assert block > exact + 0.05
