"""Loading rewards: bundled ones, from a folder or the hub, or from a function."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from stet.bundled import REWARD, REWARD_HEAD
from stet.core.errors import LoadError, OptionError
from stet.rewards.base import Reward
from stet.rewards.function import Function, FunctionReward
from stet.rewards.head import SETTINGS, RewardHead
from stet.rewards.model import ModelReward

BUNDLED, HEAD = "bundled", "head"
"""The names of the two rewards that ship with the package."""


@lru_cache(maxsize=8)
def load_reward(name: str) -> Reward:
    """Load the reward of a name; each is loaded once.

    Args:
        name: "bundled" for the reward model that ships with the package, "head" for the head on
            the bundled draft; otherwise the folder of a head, or the folder or hub name of a
            classifier.

    Raises:
        LoadError: files are missing or unreadable.
        CompatibilityError: the model is no classifier.
    """
    if name == HEAD:
        head = RewardHead.load(REWARD_HEAD)
        head.name = HEAD
        return head
    if name == BUNDLED:
        reward = ModelReward.load(REWARD)
        # It was trained on the problems of the bundled pair alone.
        reward.name, reward.pair = BUNDLED, _pair_of(REWARD)
        return reward
    folder = Path(name).expanduser()
    if (folder / SETTINGS).is_file():
        return RewardHead.load(folder)
    return ModelReward.load(name)


def as_reward(reward: str | Reward | Function) -> Reward:
    """The reward that a name, an object or a function stands for.

    Raises:
        OptionError: it is none of these.
        LoadError: it cannot be loaded.
    """
    if isinstance(reward, str):
        if not reward:
            raise OptionError('reward is empty; give "bundled", "head", a folder or a hub name.')
        return load_reward(reward)
    if isinstance(reward, Reward):
        return reward
    return FunctionReward(reward)


def _pair_of(folder: Path) -> str:
    try:
        about: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))["stet"]
        return str(about["pair"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{folder} does not say for which pair it was made.") from error
