"""Examples in batches for training: padded on the right, with their answers marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.tuning.examples import Example

TOKENS = 1024
"""Tokens of a pass, padding included, unless a single example is longer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of a pass.

    Attributes:
        ids: int64 [B, T].
        mask: int64 [B, T], 0 where padded.
        answers: bool [B, T], positions whose next token is one of the answer.
        following: int64 [N], those tokens, row by row.
    """

    ids: Tensor
    mask: Tensor
    answers: Tensor
    following: Tensor


def batch_of(examples: Sequence[Example]) -> Batch:
    """These examples as one batch."""
    width = max(len(example.prompt) + len(example.answer) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    mask, answers = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(examples):
        text = torch.tensor([*example.prompt, *example.answer])
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
        answers[row, max(len(example.prompt) - 1, 0) : len(text) - 1] = True
    following = ids.roll(-1, 1)[answers]
    return Batch(ids, mask, answers, following)


def passes(examples: Sequence[Example], tokens: int = TOKENS) -> Iterator[Batch]:
    """Batches of similar length that fit into a pass."""
    waiting = sorted(examples, key=lambda e: len(e.prompt) + len(e.answer))
    start = 0
    for stop in range(1, len(waiting) + 1):
        if stop < len(waiting):
            width = len(waiting[stop].prompt) + len(waiting[stop].answer)
            if width * (stop + 1 - start) <= tokens:
                continue
        yield batch_of(waiting[start:stop])
        start = stop


def order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of the examples in an epoch."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(count, generator=generator).tolist()


def chosen(examples: Sequence[Example], batch: int, step: int, seed: int) -> list[Example]:
    """The examples of an optimiser step; epochs follow each other without a gap."""
    found: list[Example] = []
    orders: dict[int, list[int]] = {}
    for place in range(step * batch, (step + 1) * batch):
        epoch, at = divmod(place, len(examples))
        if epoch not in orders:
            orders[epoch] = order(len(examples), seed, epoch)
        found.append(examples[orders[epoch][at]])
    return found
