"""Process rewards: numbers that rate steps, for reward-guided decoding."""

from stet.rewards.base import Passage, Reward, passages
from stet.rewards.function import FunctionReward
from stet.rewards.head import RewardHead
from stet.rewards.load import as_reward, load_reward
from stet.rewards.model import ModelReward

__all__ = [
    "FunctionReward",
    "ModelReward",
    "Passage",
    "Reward",
    "RewardHead",
    "as_reward",
    "load_reward",
    "passages",
]
