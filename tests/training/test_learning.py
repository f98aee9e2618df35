"""Fitting and policy gradient on made-up decisions whose right answer is known."""

import math

import pytest
import torch

from stet.arbiter import Network
from stet.core.errors import StetError
from stet.core.trace import Counters, MismatchRecord
from stet.training.branches import Branches
from stet.training.fitting import FitSettings, fit, loss_of
from stet.training.gradient import (
    LEAST_SPREAD,
    GradientSettings,
    Round,
    divergence,
    entropy_of,
    gather,
    improve,
    improve_by_flips,
    reward_of,
)
from stet.training.inspecting import feature_auroc
from stet.training.measuring import Measured, choose
from stet.training.rollout_policy import Rollout


def branches(features, with_draft, with_target, question=None):
    count = len(features)
    return Branches(
        torch.as_tensor(features, dtype=torch.float32),
        torch.arange(count) if question is None else torch.tensor(question),
        torch.zeros(count, dtype=torch.long),
        torch.full((count,), 1),
        torch.full((count,), 2),
        torch.as_tensor(with_draft),
        torch.as_tensor(with_target),
    )


def world(count, seed):
    """The draft is right where the first feature is positive; the second says nothing."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, generator=generator) * torch.tensor([3.0, 1.0]) + 5
    draft = features[:, 0] > 5
    tie = torch.rand(count, generator=generator) < 0.5
    return branches(features, draft | tie, ~draft | tie)


def network(weight=0.0, bias=0.0):
    made = Network(1)
    with torch.no_grad():
        made.layers[0].weight.fill_(weight)
        made.layers[0].bias.fill_(bias)
    return made


# Branches


def test_advantage_and_cells():
    found = branches([[0.0]] * 4, [True, True, False, False], [True, False, True, False])
    assert found.advantage(0.1).tolist() == pytest.approx([0.1, 1.1, -0.9, 0.1])
    assert found.cells() == {"both right": 1, "draft only": 1, "target only": 1, "neither": 1}
    assert len(found.where(torch.tensor([True, False, True, False]))) == 2


def test_branches_come_back_from_disk_and_damage_is_named(tmp_path):
    found = world(7, 0)
    found.save(tmp_path / "b.safetensors")
    again = Branches.load(tmp_path / "b.safetensors")
    assert torch.equal(found.features, again.features)
    assert torch.equal(found.with_draft, again.with_draft)
    assert list(tmp_path.iterdir()) == [tmp_path / "b.safetensors"]
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(StetError, match=r"c\.safetensors holds no branches"):
        Branches.load(tmp_path / "c.safetensors")
    with pytest.raises(StetError, match="There are no branches"):
        Branches.join([])


# The fit


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_fit_finds_what_tells_the_tokens_apart(hidden):
    made = fit(world(600, 0), world(200, 1), FitSettings(hidden=hidden))
    fresh = world(400, 2)
    draft_only = fresh.with_draft & ~fresh.with_target
    target_only = ~fresh.with_draft & fresh.with_target
    chosen = made(fresh.features) > 0
    assert chosen[draft_only].float().mean() > 0.95
    assert chosen[target_only].float().mean() < 0.05
    assert not any(p.requires_grad for p in made.parameters())


def test_shuffled_outcomes_stay_together_and_tell_nothing():
    found = world(2000, 0)
    dealt = found.shuffled(1)
    assert dealt.cells() == found.cells()
    assert torch.equal(dealt.features, found.features)
    assert torch.equal(dealt.with_draft, found.shuffled(1).with_draft)
    assert not torch.equal(dealt.with_draft, found.with_draft)
    made, fresh = fit(dealt, world(400, 1).shuffled(2), FitSettings()), world(1000, 2)
    gain = fresh.advantage(0.0)
    assert float((gain * (made(fresh.features) > 0)).sum()) < 0.5 * float(gain.clamp(min=0).sum())


def test_ties_are_the_draft_s_and_count_as_little_as_they_cost():
    tie = branches([[0.0]] * 10, [True] * 10, [True] * 10)
    assert fit(tie, tie, FitSettings(hidden=()))(tie.features).min() > 0
    # Ten ties for the draft and one bad mismatch: the one outweighs them.
    mixed = branches([[0.0]] * 11, [True] * 10 + [False], [True] * 11)
    assert fit(mixed, mixed, FitSettings(hidden=(), cost=0.02))(mixed.features).max() < 0
    assert fit(mixed, mixed, FitSettings(hidden=(), cost=0.3))(mixed.features).min() > 0


def test_the_loss_is_weighted_by_what_a_choice_is_worth():
    made, found = network(bias=0.7), branches([[0.0]] * 2, [True, False], [False, True])
    for_draft, for_target = math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.7))
    expected = (1.1 * for_draft + 0.9 * for_target) / 2.0
    assert float(loss_of(made, found, 0.1).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_fit_keeps_the_weights_that_were_best_on_other_questions():
    """Trained on noise, the last weights are worse than some before."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(40, 20, generator=generator)
    labels = torch.rand(40, generator=generator) < 0.5
    other = torch.randn(200, 20, generator=generator)
    marks = torch.rand(200, generator=generator) < 0.5
    training, validation = branches(noise, labels, ~labels), branches(other, marks, ~marks)
    made = fit(training, validation, FitSettings(hidden=(32,)))
    assert float(loss_of(made, validation, 0.02)) < 0.75  # memorised it would be several nats


def test_a_fit_is_repeatable_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    one, two = (fit(world(100, 0), world(50, 1), FitSettings(seed=3)) for _ in range(2))
    assert torch.equal(one.layers[0].weight, two.layers[0].weight)
    assert torch.equal(before, torch.random.get_rng_state())
    other = fit(world(100, 0), world(50, 1), FitSettings(seed=4))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


# Policy gradient


def rollout(question, right, decisions):
    """A rollout of decisions, given as (feature, accepted)."""
    mismatches = tuple(MismatchRecord(0, 1, 2, 0.5, accepted, [f]) for f, accepted in decisions)
    return Rollout(question, right, (), (), (0,) * len(mismatches), mismatches, Counters())


def test_rewards_and_group_relative_advantages():
    settings = GradientSettings(cost=0.1)
    rollouts = [
        rollout(0, True, [(1.0, True), (2.0, False)]),
        rollout(0, False, [(3.0, True)]),
        rollout(1, True, [(9.0, True)]),
        rollout(1, True, [(9.0, True)]),
    ]
    assert [reward_of(g, 0.1) for g in rollouts] == pytest.approx([0.9, 0.0, 1.0, 1.0])
    found = gather(rollouts, settings, 1)
    # Group 1 teaches nothing and is left out.
    assert found.used == 0.5
    assert found.features[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert found.stood.tolist() == [True, False, True]
    spread = math.sqrt(2 * 0.45**2)
    assert found.advantage.tolist() == pytest.approx(
        [0.45 / spread, 0.45 / spread, -0.45 / spread], rel=1e-4
    )
    assert found.reward == pytest.approx(2.9 / 4)
    assert found.right == 0.75


def test_what_blocks_cost_is_not_blown_up_to_the_size_of_an_answer():
    settings = GradientSettings(cost=0.01)
    rollouts = [rollout(0, True, [(0.0, True)]), rollout(0, True, [(0.0, False)])]
    found = gather(rollouts, settings, 1)
    assert found.advantage.tolist() == pytest.approx(
        [0.005 / LEAST_SPREAD, -0.005 / LEAST_SPREAD], rel=1e-3
    )


def test_nothing_to_learn_changes_nothing():
    made, settings = network(0.3), GradientSettings()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.1)
    found = gather([rollout(0, True, [(1.0, True)]), rollout(0, True, [(1.0, True)])], settings, 1)
    assert improve(made, network(0.3), optimiser, found, settings)["kl"] == 0
    assert made.layers[0].weight.item() == pytest.approx(0.3)


def sampled_round(made, count, seed):
    """Random decisions in a world where the draft's token is right iff the feature is 1."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(0, 2, (count, 1), generator=generator).float() * 2 - 1
    with torch.no_grad():
        accepted = torch.rand(count, generator=generator) < made(features).sigmoid()
    reward = (accepted == (features[:, 0] > 0)).float()
    return Round(features, accepted, reward - reward.mean(), float(reward.mean()), 0.0, 1.0)


def test_policy_gradient_learns_what_pays():
    settings = GradientSettings(entropy=0.0, kl=0.0)
    made, start = network(), network()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.05)
    first = sampled_round(made, 4000, 0).reward
    for number in range(60):
        improve(made, start, optimiser, sampled_round(made, 400, number), settings)
    assert first == pytest.approx(0.5, abs=0.05)
    assert sampled_round(made, 4000, 99).reward > 0.95


def test_the_first_step_is_the_policy_gradient():
    """The surrogate's gradient at the start is the mean of advantage times grad log-probability."""
    settings = GradientSettings(epochs=1, entropy=0.0, kl=0.0)
    made = network(0.4, -0.2)
    found = sampled_round(made, 300, 5)
    optimiser = torch.optim.SGD(made.parameters(), lr=1.0)
    improve(made, network(0.4, -0.2), optimiser, found, settings)
    p = torch.sigmoid(0.4 * found.features[:, 0] - 0.2)
    # d log p(action) / d logit is 1 - p where the draft's token stood, and -p where not.
    slope = torch.where(found.stood, 1 - p, -p) * found.advantage
    moved = made.layers[0].weight.item() - 0.4, made.layers[0].bias.item() + 0.2
    expected = float((slope * found.features[:, 0]).mean()), float(slope.mean())
    assert moved == pytest.approx(expected, rel=1e-4)


def test_flips_follow_the_expected_advantage():
    settings = GradientSettings(epochs=1, entropy=0.0, kl=0.0, cost=0.1)
    made = network(0.4, -0.2)
    found = branches([[1.0], [-1.0], [2.0]], [True, False, True], [False, True, True])
    optimiser = torch.optim.SGD(made.parameters(), lr=1.0)
    improve_by_flips(made, network(0.4, -0.2), optimiser, found, settings)
    x, advantage = found.features[:, 0], torch.tensor([1.1, -0.9, 0.1])
    p = torch.sigmoid(0.4 * x - 0.2)
    slope = p * (1 - p) * advantage
    moved = made.layers[0].weight.item() - 0.4, made.layers[0].bias.item() + 0.2
    assert moved == pytest.approx((float((slope * x).mean()), float(slope.mean())), rel=1e-4)


def test_staying_near_the_warm_start_changes_less():
    def after(kl):
        made = network()
        optimiser = torch.optim.Adam(made.parameters(), lr=0.05)
        for number in range(40):
            found = sampled_round(made, 400, number)
            improve(made, network(), optimiser, found, GradientSettings(kl=kl, entropy=0.0))
        return made.layers[0].weight.item()

    assert 0 < after(5.0) < 0.3 * after(0.0)


def test_entropy_and_divergence_of_a_decision():
    a, b = torch.tensor([0.3, -2.0]), torch.tensor([1.0, -2.0])
    p, q = a.sigmoid().tolist(), b.sigmoid().tolist()
    expected = [-(x * math.log(x) + (1 - x) * math.log(1 - x)) for x in p]
    assert entropy_of(a).tolist() == pytest.approx(expected, rel=1e-5)
    expected = [
        x * math.log(x / y) + (1 - x) * math.log((1 - x) / (1 - y))
        for x, y in zip(p, q, strict=True)
    ]
    assert divergence(a, b).tolist() == pytest.approx(expected, abs=1e-6)


# Looking


def test_feature_auroc_is_the_auroc_of_each_feature():
    found = branches(
        [[1.0, 5.0], [2.0, 1.0], [0.0, 3.0], [9.0, 9.0]],
        [True, True, False, True],
        [False, False, True, True],
    )
    told = feature_auroc(found, ["a", "b"])
    assert told["a"] == (1.0, 1.5, 0.0)
    assert told["b"] == (0.5, 3.0, 3.0)
    assert list(told) == ["a", "b"]
    assert feature_auroc(found, ["a", "hidden", "b"]) == {}


def test_of_thresholds_about_as_accurate_the_fastest_is_chosen():
    curve = [
        Measured(0.1, 1000, 880, 9.0, 1, 1),
        Measured(0.3, 1000, 896, 7.0, 1, 1),
        Measured(0.5, 1000, 900, 6.0, 1, 1),
        Measured(0.9, 1000, 896, 5.0, 1, 0),
    ]
    assert choose(curve, 0.0).threshold == 0.5
    assert choose(curve, 0.005).threshold == 0.3
    assert choose(curve, 0.02).threshold == 0.1


def outcomes(threshold, speed, lost, won, questions=1000):
    """The best has its first 900 right; this one loses some of them and wins some others."""
    text = "0" * lost + "1" * (900 - lost) + "1" * won + "0" * (questions - 900 - won)
    return Measured(threshold, questions, text.count("1"), speed, 1, 1, text)


@pytest.mark.parametrize(
    ("lost", "won", "chosen"),
    [
        (0, 0, 0.1),  # the same answers
        (5, 5, 0.1),  # 0 + 1.645 * sqrt(10) / 1000 = 0.0052
        (21, 20, 0.9),  # 0.001 + 1.645 * sqrt(41) / 1000 = 0.0115
        (20, 20, 0.1),  # as accurate, and faster
        (8, 2, 0.9),  # 0.006 + 1.645 * sqrt(10 - 0.036) / 1000 = 0.0112
        (6, 3, 0.1),  # 0.003 + 1.645 * sqrt(9 - 0.009) / 1000 = 0.0079
    ],
)
def test_a_faster_threshold_is_chosen_where_a_loss_of_a_point_is_excluded(lost, won, chosen):
    curve = [outcomes(0.1, 9.0, lost, won), outcomes(0.9, 5.0, 0, 0)]
    assert choose(curve, 0.01).threshold == chosen


def test_worth_is_right_answers_less_what_their_blocks_cost():
    assert Measured(0.5, 100, 80, 6.0, 50, 20).worth(0.01) == pytest.approx(0.8 - 0.003)
