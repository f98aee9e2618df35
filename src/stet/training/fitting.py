"""The warm start: an arbiter that is fitted to branches, each weighed by what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stet.arbiter import Network
from stet.training.branches import Branches

EPOCHS = 400
PATIENCE = 40


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How an arbiter is fitted.

    Attributes:
        hidden: widths of its hidden layers; none for a line.
        cost: of a target's token that stands, in right answers.
        rate: step size of the optimiser.
        decay: weight decay.
        seed: of the first weights.
    """

    hidden: Sequence[int] = (32,)
    cost: float = 0.01
    rate: float = 3e-3
    decay: float = 1e-2
    seed: int = 0


def loss_of(network: Network, branches: Branches, cost: float) -> Tensor:
    """Cost-sensitive log loss: each branch counts as much as the choice between its tokens matters.

    Where only the draft's token leads to the right answer, or only the target's, that is about 1;
    where both do or neither, it is `cost`, in favour of the draft's.
    """
    advantage = branches.advantage(cost)
    losses = functional.binary_cross_entropy_with_logits(
        network(branches.features), (advantage > 0).float(), reduction="none"
    )
    return (losses * advantage.abs()).sum() / advantage.abs().sum()


def fit(training: Branches, validation: Branches, settings: FitSettings) -> Network:
    """The network whose loss on the validation branches was lowest on the way.

    Args:
        training: what it is fitted to, in full batches: there are thousands, not millions.
        validation: branches of other questions.
        settings: how.
    """
    generator = torch.random.get_rng_state()
    torch.manual_seed(settings.seed)
    network = Network(training.features.shape[1], settings.hidden)
    torch.random.set_rng_state(generator)
    network.fit_inputs(training.features)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.rate, weight_decay=settings.decay
    )
    best, lowest, since = _copy(network), float("inf"), 0
    for _ in range(EPOCHS):
        with torch.no_grad():
            found = float(loss_of(network, validation, settings.cost))
        if found < lowest - 1e-6:
            best, lowest, since = _copy(network), found, 0
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


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
