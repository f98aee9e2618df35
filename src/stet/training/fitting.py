"""The warm start: an arbiter fitted to branches, each weighted by how much it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stet.arbiter import Network
from stet.core.checkpoint import snapshot
from stet.training.branches import Branches

EPOCHS = 400
PATIENCE = 40


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of the warm start.

    Attributes:
        hidden: widths of the network's hidden layers; none for a linear model.
        cost: cost of a rejected mismatch, in right answers.
        rate: learning rate.
        decay: weight decay.
        seed: seed of the initial weights.
    """

    hidden: Sequence[int] = (32,)
    cost: float = 0.01
    rate: float = 3e-3
    decay: float = 1e-2
    seed: int = 0


def loss_of(network: Network, branches: Branches, cost: float) -> Tensor:
    """The cost-sensitive log loss: each branch is weighted by how much its decision matters.

    The weight is about 1 where only one of the tokens leads to the right answer. Where both or
    neither do it is `cost`, in favour of the draft's token.
    """
    advantage = branches.advantage(cost)
    losses = functional.binary_cross_entropy_with_logits(
        network(branches.features), (advantage > 0).float(), reduction="none"
    )
    return (losses * advantage.abs()).sum() / advantage.abs().sum()


def fit(training: Branches, validation: Branches, settings: FitSettings) -> Network:
    """Fit a network; the state with the lowest loss on the validation branches is returned.

    Args:
        training: the branches that it is fitted to, in full batches: there are thousands, not
            millions.
        validation: branches of other questions.
        settings: the settings of the fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Network(training.features.shape[1], settings.hidden)
    network.fit_inputs(training.features)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.rate, weight_decay=settings.decay
    )
    best, lowest, since = snapshot(network), float("inf"), 0
    for _ in range(EPOCHS):
        with torch.no_grad():
            found = float(loss_of(network, validation, settings.cost))
        if found < lowest - 1e-6:
            best, lowest, since = snapshot(network), found, 0
        else:
            since += 1
            if since > PATIENCE:
                break
        optimiser.zero_grad()
        loss = loss_of(network, training, settings.cost)
        loss.backward()
        optimiser.step()
    network.load_state_dict(best)
    return network.requires_grad_(False).eval()
