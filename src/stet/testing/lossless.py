"""A check for losslessness: what a rule emits against the target's law, on enumerable models."""

from __future__ import annotations

from bisect import bisect
from collections import Counter

import numpy as np
import torch

from stet.core.blocks import Blocks
from stet.core.policy import TokenPolicy
from stet.core.verification import Verification
from stet.testing.statistics import p_value
from stet.testing.worlds import KINDS, Prefix, World, draft_blocks, make_world

LENGTHS = (1, 2, 3)
TEMPERATURES = (0.6, 1.0, 1.5)
COUNT = 3
"""Tokens of the answers that are compared."""


def check_lossless(policy: TokenPolicy, *, rows: int = 8192, alpha: float = 1e-6) -> None:
    """Check that the emitted text follows the target's own distribution exactly.

    Blocks of several lengths are drafted from several kinds of drafts and temperatures; what the
    policy emits is continued from the target's law, and the first tokens must follow that law.
    At temperature 0 they must be the target's own.

    Args:
        policy: the rule.
        rows: number of blocks in each case.
        alpha: probability with which a correct rule fails in one of the cases; the seeds are fixed,
            so that a rule that passes once always does.

    Raises:
        AssertionError: it does not, with the first case in which it does not.
    """
    cases = len(KINDS) * len(LENGTHS) * len(TEMPERATURES)
    for number, kind in enumerate(KINDS):
        for length in LENGTHS:
            for temperature in TEMPERATURES:
                seed = 100 * number + 10 * length
                world = make_world(kind, length=COUNT, temperature=temperature, seed=seed)
                blocks = draft_blocks(world, policy, torch.full((rows,), length), seed + 1)
                counts = emit(world, blocks, policy.verify(blocks), COUNT, seed + 2)
                value = p_value((counts, world.law(COUNT)))
                assert value > alpha / cases, (
                    f"{policy.name} is not lossless: with a draft of the kind {kind!r}, blocks of "
                    f"{length} at temperature {temperature:g}, what it emits does not follow the "
                    f"target's distribution (p = {value:.1e})"
                )
        _check_greedy(policy, make_world(kind, length=COUNT, seed=number), kind)


def emit(
    world: World, blocks: Blocks, verification: Verification, count: int, seed: int
) -> Counter[Prefix]:
    """Count the first tokens of each row, continued from the target's law where it is short.

    Args:
        world: the models.
        blocks: blocks that its draft wrote.
        verification: what a policy decided of them.
        count: number of tokens.
        seed: seed of what is continued.
    """
    rows = len(blocks.lengths)
    random = np.random.default_rng(seed).random((rows, count)).tolist()
    cumulative = {prefix: (p.cumsum() / p.sum()).tolist() for prefix, p in world.p.items()}
    drafted, following = blocks.drafted.tolist(), verification.next_token.tolist()
    counts: Counter[Prefix] = Counter()
    for row, accepted in enumerate(verification.accepted.tolist()):
        next_token = [following[row]] if following[row] >= 0 else []
        tokens: Prefix = (*drafted[row][:accepted], *next_token)[:count]
        while len(tokens) < count:
            tokens = (*tokens, bisect(cumulative[tokens], random[row][len(tokens)]))
        counts[tokens] += 1
    return counts


def _check_greedy(policy: TokenPolicy, world: World, kind: str) -> None:
    lengths = torch.tensor([1, 2, 3])
    blocks = draft_blocks(world, policy, lengths, 0, greedy=True)
    verification = policy.verify(blocks)
    for row, length in enumerate(lengths.tolist()):
        accepted = int(verification.accepted[row])
        own = blocks.target_tokens[row].tolist()
        drafted = blocks.drafted[row, :length].tolist()
        emitted = drafted[:accepted]
        if int(verification.next_token[row]) >= 0:
            emitted.append(int(verification.next_token[row]))
        assert emitted == own[: len(emitted)], (
            f"{policy.name} is not lossless: at temperature 0, with a draft of the kind {kind!r}, "
            f"it emits {emitted} where the target writes {own[: len(emitted)]}"
        )
