"""Policy gradient: the arbiter is trained on the outcomes of its own decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stet.arbiter import Network
from stet.training.branches import Branches
from stet.training.rollout_policy import Rollout

LEAST_SPREAD = 0.3
"""The smallest standard deviation by which a group's rewards are divided."""


@dataclass(frozen=True, slots=True)
class GradientSettings:
    """Settings of policy gradient.

    Attributes:
        group: answers to each question, from which their advantages are computed.
        questions: questions of a round.
        epochs: passes over a round's decisions.
        clip: clipping range of the probability ratio of a decision (as in PPO).
        cost: cost of a rejected mismatch, in right answers.
        entropy: weight of the entropy bonus, which keeps decisions from becoming deterministic
            early.
        kl: weight of the KL divergence from the warm start, in nats.
        rate: learning rate.
    """

    group: int = 8
    questions: int = 64
    epochs: int = 4
    clip: float = 0.2
    cost: float = 0.01
    entropy: float = 0.003
    kl: float = 0.02
    rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class Round:
    """The D decisions of a round, with their advantages.

    Attributes:
        features: [D, F] float32, the features of each decision.
        stood: [D] bool, whether the draft's token was accepted.
        advantage: [D] float32, the advantage of the answer that the decision is part of.
        reward: mean reward of the answers.
        right: share of right answers.
        used: share of groups whose answers differ in reward: the others have no gradient.
    """

    features: Tensor
    stood: Tensor
    advantage: Tensor
    reward: float
    right: float
    used: float


def gather(rollouts: Sequence[Rollout], settings: GradientSettings, inputs: int) -> Round:
    """Gather a round's decisions, each with the group-relative advantage of its answer.

    An answer's advantage is its reward less the mean of its group, divided by the group's standard
    deviation, or by `LEAST_SPREAD` where that is larger. In a group of only right answers rewards
    differ by the cost of rejected mismatches alone; divided by so small a deviation, that cost
    would count as much as a right answer. Groups whose answers all have the same reward are left
    out.
    """
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.question, []).append(rollout)
    features: list[list[float]] = []
    stood: list[bool] = []
    advantages: list[float] = []
    rewards: list[float] = []
    used = 0
    for members in groups.values():
        values = torch.tensor([reward_of(g, settings.cost) for g in members])
        rewards += values.tolist()
        spread = float(values.std()) if len(members) > 1 else 0.0
        if spread < 1e-6:
            continue
        used += 1
        relative = ((values - values.mean()) / max(spread, LEAST_SPREAD)).tolist()
        for rollout, advantage in zip(members, relative, strict=True):
            for mismatch in rollout.mismatches:
                features.append(mismatch.features)
                stood.append(mismatch.accepted)
                advantages.append(advantage)
    return Round(
        torch.tensor(features).reshape(-1, inputs),
        torch.tensor(stood, dtype=torch.bool),
        torch.tensor(advantages),
        sum(rewards) / len(rewards),
        sum(g.right for g in rollouts) / len(rollouts),
        used / len(groups),
    )


def reward_of(rollout: Rollout, cost: float) -> float:
    """The reward of an answer: 1 if it is right, less `cost` for each rejected mismatch."""
    declined = sum(not d.accepted for d in rollout.mismatches)
    return float(rollout.right) - cost * declined


def improve(
    network: Network,
    start: Network,
    optimiser: torch.optim.Optimizer,
    found: Round,
    settings: GradientSettings,
) -> dict[str, float]:
    """Update the network on one round of its own sampled decisions.

    Args:
        network: the network, which is updated in place.
        start: the warm start, from which the KL divergence is penalised.
        optimiser: the optimiser of the network's weights.
        found: the round.
        settings: settings of policy gradient.

    Returns:
        Means over the last pass: `kl` to the warm start and `entropy`, in nats, and `moved`, the
        share of decisions whose ratio was clipped.
    """
    if not len(found.advantage):
        return {"kl": 0.0, "entropy": 0.0, "moved": 0.0}
    sign = torch.where(found.stood, 1.0, -1.0)
    with torch.no_grad():
        before = functional.logsigmoid(sign * network(found.features))
        anchor = start(found.features)
    measured: dict[str, float] = {}
    for _ in range(settings.epochs):
        logits = network(found.features)
        ratio = (functional.logsigmoid(sign * logits) - before).exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        gain = torch.minimum(ratio * found.advantage, clipped * found.advantage).mean()
        entropy, kl = entropy_of(logits).mean(), divergence(logits, anchor).mean()
        optimiser.zero_grad()
        loss = -(gain + settings.entropy * entropy - settings.kl * kl)
        loss.backward()
        optimiser.step()
        measured = {
            "kl": float(kl.detach()),
            "entropy": float(entropy.detach()),
            "moved": float((ratio != clipped).float().mean()),
        }
    return measured


def improve_by_flips(
    network: Network,
    start: Network,
    optimiser: torch.optim.Optimizer,
    branches: Branches,
    settings: GradientSettings,
) -> dict[str, float]:
    """Update the network on branches, which have the outcomes of both tokens at each decision.

    As both outcomes are known, the expected advantage is maximised instead of a sampled one: the
    mean over decisions of p(draft) times the difference of the outcomes. Nothing is sampled from
    the network, so outcomes of earlier rounds may be among them.
    """
    advantage = branches.advantage(settings.cost)
    with torch.no_grad():
        anchor = start(branches.features)
    measured: dict[str, float] = {}
    for _ in range(settings.epochs):
        logits = network(branches.features)
        gain = (logits.sigmoid() * advantage).mean()
        entropy, kl = entropy_of(logits).mean(), divergence(logits, anchor).mean()
        optimiser.zero_grad()
        loss = -(gain + settings.entropy * entropy - settings.kl * kl)
        loss.backward()
        optimiser.step()
        measured = {"kl": float(kl.detach()), "entropy": float(entropy.detach())}
    return measured


def entropy_of(logits: Tensor) -> Tensor:
    """The entropy of decisions, in nats, from their logits."""
    p = logits.sigmoid()
    return -(p * functional.logsigmoid(logits) + (1 - p) * functional.logsigmoid(-logits))


def divergence(logits: Tensor, anchor: Tensor) -> Tensor:
    """The KL divergence of decisions from others, in nats, from the logits of both."""
    p = logits.sigmoid()
    accepted = functional.logsigmoid(logits) - functional.logsigmoid(anchor)
    rejected = functional.logsigmoid(-logits) - functional.logsigmoid(-anchor)
    return p * accepted + (1 - p) * rejected
