"""The head on the draft's hidden states: its files, its pooling, and whom it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tiny
from stet.core.errors import LoadError, OptionError
from stet.core.needs import Need
from stet.core.sequence import TokenSequence
from stet.policies import Candidate, RewardGuided, Step
from stet.rewards import RewardHead, load_reward
from stet.rewards.head import HeadNet, padded


def head(width: int = 6, seed: int = 0, pair: str | None = "p") -> RewardHead:
    torch.manual_seed(seed)
    return RewardHead(HeadNet(width, 8).eval(), pair)


def rated(reward: RewardHead, *hidden: Tensor) -> list[float]:
    program = reward.rate(
        Step(
            TokenSequence([1]),
            0,
            [Candidate(TokenSequence([1]), "", None, h) for h in hidden],
            tiny.unread,
            tiny.unasked,
        )
    )
    with pytest.raises(StopIteration) as stop:
        next(program)
    return stop.value.value


def states(*lengths: int, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(length, width, generator=generator) for length in lengths]


def test_a_candidate_is_rated_as_if_it_was_alone():
    reward, steps = head(), states(5, 1, 9)
    together = rated(reward, *steps)
    assert together == pytest.approx([rated(reward, one)[0] for one in steps], abs=1e-6)
    assert len(set(together)) == 3
    assert all(0 < value < 1 for value in together)
    assert reward.needs == {Need.DRAFT_HIDDEN}


def test_last_mean_largest_and_smallest_features_count():
    reward, (step,) = head(), states(4)
    with torch.no_grad():
        tokens = reward.net.features(torch.nn.functional.gelu(reward.net.read(step)))
        pooled = torch.cat([tokens[-1], tokens.mean(0), tokens.max(0)[0], tokens.min(0)[0]])
        inner = torch.nn.functional.gelu(reward.net.mixed(pooled))
        expected = float(reward.net.output(inner).sigmoid())
    assert rated(reward, step) == [pytest.approx(expected, abs=1e-6)]


def test_it_is_read_back_as_it_was_saved(tmp_path: Path):
    reward = head(seed=4)
    reward.save(tmp_path)
    again = RewardHead.load(tmp_path)
    steps = states(3, 5)
    assert rated(again, *steps) == rated(reward, *steps)
    assert again.pair == "p"
    assert load_reward(str(tmp_path)).name == str(tmp_path)


def test_hidden_states_of_another_size_are_refused():
    with pytest.raises(OptionError, match="hidden states of 6 numbers and this draft has 5"):
        next(
            head().rate(
                Step(
                    TokenSequence([1]),
                    0,
                    [Candidate(TokenSequence([1]), "", None, torch.ones(2, 5))],
                    tiny.unread,
                    tiny.unasked,
                )
            )
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "head.json").unlink(), "is no reward head"),
        (lambda f: (f / "head.safetensors").unlink(), "is no reward head"),
        (lambda f: (f / "head.json").write_text("{"), "is not of a reward head"),
        (lambda f: (f / "head.json").write_text("{}"), "is not of a reward head"),
        (lambda f: (f / "head.safetensors").write_bytes(b"no"), "cannot be read"),
        (lambda f: save_file({"a": torch.ones(2)}, f / "head.safetensors"), "does not fit"),
        (
            lambda f: (f / "head.json").write_text(
                json.dumps({"format": 9, "pair": "p", "width": 6, "inner": 8})
            ),
            "has format 9",
        ),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, change, sentence: str):
    head().save(tmp_path)
    change(tmp_path)
    with pytest.raises(LoadError, match=sentence):
        RewardHead.load(tmp_path)


def test_the_policy_asks_for_hidden_states_and_names_the_pair():
    policy = RewardGuided(reward=head(pair="abc"))
    assert policy.needs == {Need.DRAFT_HIDDEN}
    assert policy.pair == "abc"


def test_padding_leaves_the_states_as_they_are():
    steps = states(2, 4)
    hidden, lengths = padded(steps)
    assert lengths.tolist() == [2, 4]
    assert torch.equal(hidden[0, :2], steps[0])
    assert torch.equal(hidden[1], steps[1])
