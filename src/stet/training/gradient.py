"""Policy gradient: the arbiter learns from whole answers that its own decisions led to."""

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
"""Rewards of a group are never stretched further than one that is this far apart."""


@dataclass(frozen=True, slots=True)
class GradientSettings:
    """How the arbiter is improved.

    Attributes:
        group: answers to each question, from which the advantage of each is reckoned.
        questions: of a round.
        epochs: passes over a round's decisions.
        clip: how far the chance of a decision may move within a round, as a ratio (as in PPO).
        cost: of a target's token that stands, in right answers.
        entropy: weight of the decisions' entropy, so that chance is not given up early.
        kl: weight of the distance to the warm start, in nats.
        rate: step size of the optimiser.
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
    """The decisions of a round, D of them, with their advantages.

    Attributes:
        features: [D, F] float32.
        stood: [D] bool, the draft's token was kept.
        advantage: [D] float32, of the answer that the decision was part of.
        reward: mean over the answers.
        right: share of right answers.
        used: share of groups in which answers differed in reward: others teach nothing.
    """

    features: Tensor
    stood: Tensor
    advantage: Tensor
    reward: float
    right: float
    used: float


def gathered(rollouts: Sequence[Rollout], settings: GradientSettings, inputs: int) -> Round:
    """A round's decisions, each with the group-relative advantage of its answer.

    An answer's advantage is its reward less the mean of its group, divided by the group's standard
    deviation, or by `LEAST_SPREAD` where that is larger: in a group of right answers alone rewards
    differ by what blocks cost, and dividing by that little would make it count as much as being
    right. Groups whose answers were all worth the same are left out.
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
    """A right answer, less what its blocks cost."""
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
        network: what is improved, in place.
        start: the warm start, to which it stays near.
        optimiser: of its weights.
        found: the round.
        settings: how.

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
    """The same from counterfactuals: at each decision, what the other token would have led to.

    Both actions' outcomes are known, so the expected advantage is followed instead of a sampled
    one: its gradient is that of the sum over decisions of p(draft) times the difference.
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
    """Of the decision, in nats, by its log-odds."""
    p = logits.sigmoid()
    return -(p * functional.logsigmoid(logits) + (1 - p) * functional.logsigmoid(-logits))


def divergence(logits: Tensor, anchor: Tensor) -> Tensor:
    """KL of the decision from another one's, in nats, by their log-odds."""
    p = logits.sigmoid()
    accepted = functional.logsigmoid(logits) - functional.logsigmoid(anchor)
    falls = functional.logsigmoid(-logits) - functional.logsigmoid(-anchor)
    return p * accepted + (1 - p) * falls
