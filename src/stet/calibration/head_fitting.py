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
    mean, spread = _moments(training.states)
    scaled = [(s.float() - mean) / spread for s in training.states]
    tested = [(s.float() - mean) / spread for s in validating.states]
    before = torch.random.get_rng_state()
    torch.manual_seed(seed)
    net = HeadNet(len(mean), INNER)
    torch.random.set_rng_state(before)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    best, lowest, since = _copy(net), float("inf"), 0
    order = random.Random(seed)
    for _ in range(EPOCHS):
        places = order.sample(range(len(scaled)), len(scaled))
        for start in range(0, len(places), BATCH):
            chosen = places[start : start + BATCH]
            loss = _loss(net, [scaled[i] for i in chosen], [training.good[i] for i in chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            found = float(_loss(net, tested, validating.good))
        if found < lowest - 1e-4:
            best, lowest, since = _copy(net), found, 0
        else:
            since += 1
            if since >= PATIENCE:
                break
    net.load_state_dict(best)
    _fold_in(net, mean, spread)
    return net.eval().requires_grad_(False)


def _moments(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each number of the hidden states, [D] each."""
    every = torch.cat(list(states)).float()
    return every.mean(0), every.std(0).clamp(min=1e-3)


def _fold_in(net: HeadNet, mean: Tensor, spread: Tensor) -> None:
    """Change the first layer so that it takes hidden states as they are."""
    with torch.no_grad():
        net.read.weight.div_(spread)
        net.read.bias.sub_(net.read.weight @ mean)


def _loss(net: HeadNet, states: Sequence[Tensor], good: Sequence[bool]) -> Tensor:
    labels = torch.tensor(good, dtype=torch.float32)
    return functional.binary_cross_entropy_with_logits(net(*padded(states)), labels)


@torch.no_grad()
def _rate(net: HeadNet, states: Sequence[Tensor]) -> list[float]:
    found: list[float] = []
    for start in range(0, len(states), BATCH):
        found += net(*padded([s.float() for s in states[start : start + BATCH]])).tolist()
    return found


def _copy(net: HeadNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}
