"""The wrappers of ``refit_env.envs.wrappers`` for vector environments, in either backend.

``gym.make_vec`` accepts no ``wrappers=`` for these ids; wrap the environment that it returns:
``ResidualAction(gym.make_vec("ReFiT-ML1M-v0", num_envs=64), "runs/pretrained")``.
"""

from refit_env.envs.wrappers.vector.factor_observation import FactorObservation
from refit_env.envs.wrappers.vector.grouped_users import GroupedUsers
from refit_env.envs.wrappers.vector.low_rank_action import LowRankAction
from refit_env.envs.wrappers.vector.residual_action import ResidualAction
from refit_env.envs.wrappers.vector.topk_observation import TopKObservation

__all__ = ["FactorObservation", "GroupedUsers", "LowRankAction", "ResidualAction", "TopKObservation"]
