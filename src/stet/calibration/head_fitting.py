"""Training a signal: a small head on the draft's hidden states, fitted to labelled steps.

What a head says of steps that it was fitted to is too good, so the score must not be fitted to it.
The questions are divided into folds; each fold's steps are rated by a head that was fitted to the
others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stet.core.checkpoint import snapshot
from stet.core.errors import StetError
from stet.rewards.head import HeadNet, padded

FOLDS = 4
HELD = 0.15
"""The share of the questions by whose steps training is stopped."""

INNER, RATE, DECAY = 64, 2e-3, 0.05
BATCH, EPOCHS, PATIENCE = 128, 80, 8


@dataclass(frozen=True)
class Examples:
    """Labelled steps.

    Attributes:
        states: of each, [T, D], what its tokens were drawn from.
        good: the labels.
        problem: of which question each is.
    """

    states: Sequence[Tensor]
    good: Sequence[bool]
    problem: Sequence[str]

    def where(self, chosen: Callable[[str], bool]) -> Examples:
        """The steps of some questions."""
        places = [i for i, problem in enumerate(self.problem) if chosen(problem)]
        return Examples(
            [self.states[i] for i in places],
            [self.good[i] for i in places],
            [self.problem[i] for i in places],
        )


def fit_head(
    steps: Examples, seed: int = 0, report: Callable[[int, int], None] = lambda *_: None
) -> tuple[HeadNet, list[float]]:
    """Fit a head to all steps; also rate each step by a head that has not seen its question.

    Args:
        steps: the labelled steps.
        seed: seed of the division and of the initial weights.
        report: called with the number of heads that are fitted, and their number.

    Returns:
        The head, and a logit for each step.

    Raises:
        StetError: there are too few questions, or all steps have the same label.
    """
    questions = sorted(set(steps.problem))
    if len(questions) < 5 * FOLDS or len(set(steps.good)) < 2:
        raise StetError(
            f"A head cannot be fitted to the steps of {len(questions)} questions with these "
            "labels; take more problems, or harder ones."
        )
    random.Random(seed).shuffle(questions)
    fold_of = {question: place % FOLDS for place, question in enumerate(questions)}
    logits: dict[int, float] = {}
    for held in range(FOLDS):
        report(held, FOLDS + 1)
        net = _fit(steps.where(lambda q, held=held: fold_of[q] != held), seed)  # type: ignore[misc]
        places = [i for i, problem in enumerate(steps.problem) if fold_of[problem] == held]
        logits |= dict(zip(places, _rate(net, [steps.states[i] for i in places]), strict=True))
    report(FOLDS, FOLDS + 1)
    net = _fit(steps, seed)
    report(FOLDS + 1, FOLDS + 1)
    return net, [logits[i] for i in range(len(steps.good))]


def _fit(steps: Examples, seed: int) -> HeadNet:
    """Fit one head; the state with the lowest loss on held-out questions is returned."""
    questions = sorted(set(steps.problem))
    held = set(random.Random(seed).sample(questions, max(1, round(HELD * len(questions)))))
    validating, training = steps.where(lambda q: q in held), steps.where(lambda q: q not in held)
    scale = _Scale.of(training.states)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = HeadNet(len(scale.mean), INNER)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    best, lowest, since = snapshot(net), float("inf"), 0
    order = random.Random(seed)
    for _ in range(EPOCHS):
        places = order.sample(range(len(training.good)), len(training.good))
        for start in range(0, len(places), BATCH):
            loss = _loss(net, scale, training, places[start : start + BATCH])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            found = float(_loss(net, scale, validating, range(len(validating.good))))
        if found < lowest - 1e-4:
            best, lowest, since = snapshot(net), found, 0
        else:
            since += 1
            if since >= PATIENCE:
                break
    net.load_state_dict(best)
    scale.fold_into(net)
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Scale:
    """Mean and standard deviation of each number of hidden states, [D] float32 each."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, states: Sequence[Tensor]) -> _Scale:
        # Step by step: of a large draft all states at once in float32 would be gigabytes.
        count = sum(len(s) for s in states)
        mean = torch.stack([s.double().sum(0) for s in states]).sum(0) / count
        squares = torch.stack([(s.double() - mean).square().sum(0) for s in states]).sum(0)
        return cls(mean.float(), (squares / count).sqrt().clamp(min=1e-3).float())

    def fold_into(self, net: HeadNet) -> None:
        """Change the first layer so that it takes hidden states as they are."""
        with torch.no_grad():
            net.read.weight.div_(self.spread)
            net.read.bias.sub_(net.read.weight @ self.mean)


def _loss(net: HeadNet, scale: _Scale, steps: Examples, places: Sequence[int]) -> Tensor:
    """The mean log loss of some of the steps."""
    states = [(steps.states[i].float() - scale.mean) / scale.spread for i in places]
    labels = torch.tensor([steps.good[i] for i in places], dtype=torch.float32)
    return functional.binary_cross_entropy_with_logits(net(*padded(states)), labels)


@torch.no_grad()
def _rate(net: HeadNet, states: Sequence[Tensor]) -> list[float]:
    found: list[float] = []
    for start in range(0, len(states), BATCH):
        found += net(*padded([s.float() for s in states[start : start + BATCH]])).tolist()
    return found
