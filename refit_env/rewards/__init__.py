"""Terminal rewards r(u_0): RACS, accuracy, beyond accuracy, mixes and users' own functions."""

from refit_env.rewards.base import ListReward, Reward, RewardResult
from refit_env.rewards.context import RewardContext
from refit_env.rewards.linear_models import ModelReward
from refit_env.rewards.registry import (
    make_reward,
    models_in,
    own_parts,
    register_reward,
    reward_class,
    reward_names,
    short_name,
)
from refit_env.rewards.relevance import MODES, Relevance, make_relevance

__all__ = [
    "MODES",
    "ListReward",
    "ModelReward",
    "Relevance",
    "Reward",
    "RewardContext",
    "RewardResult",
    "make_relevance",
    "make_reward",
    "models_in",
    "own_parts",
    "register_reward",
    "reward_class",
    "reward_names",
    "short_name",
]
