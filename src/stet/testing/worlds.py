"""Pairs of models that are tables, so small that every answer and its probability can be listed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stet.core.blocks import ACCEPT, ARBITRATE, DRAFT, NEXT, Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.sampling import Sampler, SamplingParams, draw

Row = NDArray[np.float64]
Prefix = tuple[int, ...]

KINDS = ("random", "zeros", "equal", "near-disjoint", "disjoint")
"""How target and draft differ: at random, with tokens that one of them never writes, not at all,
and with little or nothing in common."""


@dataclass(frozen=True)
class World:
    """Both models as tables: each prefix of drafted tokens has distributions of its own.

    A rule that looks at the wrong position is therefore detected.

    Attributes:
        logits: the target's logits, by prefix, before the temperature.
        p: the target's distributions, after the temperature.
        q: the draft's distributions.
        temperature: the target's temperature.
    """

    logits: dict[Prefix, Row]
    p: dict[Prefix, Row]
    q: dict[Prefix, Row]
    temperature: float

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.p[()])

    def law(self, count: int) -> dict[Prefix, float]:
        """The probability of each answer of `count` tokens under the target alone."""
        found: dict[Prefix, float] = {}
        for tokens in itertools.product(range(self.vocab_size), repeat=count):
            weight = 1.0
            for place, token in enumerate(tokens):
                weight *= float(self.p[tokens[:place]][token])
            found[tokens] = weight
        return found


def make_world(
    kind: str, *, vocab_size: int = 3, length: int = 3, temperature: float = 1.0, seed: int = 0
) -> World:
    """Make a random pair of models.

    Args:
        kind: one of `KINDS`.
        vocab_size: number of tokens.
        length: the longest prefix that has distributions.
        temperature: the target's temperature.
        seed: seed of the tables.
    """
    random = np.random.default_rng(seed)
    made = World({}, {}, {}, temperature)
    for size in range(length + 1):
        for prefix in itertools.product(range(vocab_size), repeat=size):
            logits = random.normal(0, 1.2, vocab_size)
            other = random.normal(0, 1.2, vocab_size)
            if kind == "zeros":
                logits[random.integers(vocab_size)] = -np.inf
                other[random.integers(vocab_size)] = -np.inf
            elif kind in ("near-disjoint", "disjoint"):
                far = 4.0 if kind == "near-disjoint" else np.inf
                half = random.permutation(vocab_size)[: vocab_size // 2]
                logits[half] -= far
                other[np.setdiff1d(np.arange(vocab_size), half)] -= far
            p = np.exp((logits - logits.max()) / temperature)
            q = p if kind == "equal" else np.exp(other - other.max())
            made.logits[prefix] = logits
            made.p[prefix], made.q[prefix] = p / p.sum(), q / q.sum()
    return made


def draft_blocks(
    world: World,
    policy: TokenPolicy,
    lengths: Tensor,
    seed: int,
    *,
    greedy: bool = False,
    pad: int = 0,
    only: int | None = None,
) -> Blocks:
    """Draft blocks with the world's draft, as a policy is shown them after the target's pass.

    Args:
        world: the models.
        policy: its `needs` say what can be read of the blocks.
        lengths: [B] int64 tokens of each block; shorter blocks are padded.
        seed: seed of the randomness of drafting and of the policy.
        greedy: at temperature 0, where the draft writes its most probable tokens.
        pad: columns beyond the longest block.
        only: a row that is to be shown by itself, unpadded.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, width = len(lengths), int(lengths.max()) + pad
    slots = (DRAFT, ACCEPT, NEXT, ARBITRATE)
    numbers = {slot: torch.rand(rows, _NUMBERS, generator=generator) for slot in slots}
    prefixes: list[Prefix] = [()] * rows
    longest = max(map(len, world.p))
    drafted: list[Tensor] = []
    probs: list[Tensor] = []
    logits = [_rows(world.logits, prefixes)]
    for place in range(width):
        probs.append(_rows(world.q, prefixes))
        token = probs[-1].argmax(-1) if greedy else draw(probs[-1], numbers[DRAFT][:, place])
        drafted.append(torch.where(place < lengths, token, 0))
        written = drafted[-1].tolist()
        prefixes = [
            (*prefix, written[row]) if len(prefix) < longest else prefix
            for row, prefix in enumerate(prefixes)
        ]
        logits.append(_rows(world.logits, prefixes))
    rows_shown = slice(None) if only is None else slice(only, only + 1)
    width = width if only is None else int(lengths[only])
    lengths = lengths[rows_shown]
    tokens = torch.stack(drafted, 1) if drafted else torch.zeros(rows, 0, dtype=torch.long)
    shown = None if greedy or not width else torch.stack(probs, 1)[rows_shown, :width]
    temperature = 0.0 if greedy else world.temperature
    return Blocks(
        drafted=tokens[rows_shown, :width],
        lengths=lengths,
        target_logits=torch.stack(logits, 1)[rows_shown, : width + 1],
        sampler=Sampler(
            [SamplingParams(temperature=temperature)] * len(lengths),
            [[]] * len(lengths),
            world.vocab_size,
            torch.device("cpu"),
        ),
        uniforms=lambda slot, count: numbers[slot][rows_shown, :count],
        full=bool((lengths == width).all()),
        draft_probs=shown,
        draft_logits=torch.stack(probs, 1).log()[rows_shown, :width] if width else None,
        needs=policy.needs,
    )


_NUMBERS = 64
"""Random numbers for each row and slot."""

READABLE = frozenset({Need.DRAFT_PROBS, Need.DRAFT_LOGPROBS})
"""The needs that a world can serve: tables have no hidden states."""


def _rows(table: dict[Prefix, Row], prefixes: list[Prefix]) -> Tensor:
    """The table's rows for some prefixes, [B, V] float32."""
    known = list(table)
    place = {prefix: i for i, prefix in enumerate(known)}
    rows = torch.tensor(np.stack([table[p] for p in known]), dtype=torch.float32)
    return rows[[place[prefix] for prefix in prefixes]]
