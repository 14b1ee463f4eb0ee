"""Wrappers for small action and observation spaces: residual and low-rank actions, short observations.

These wrap a single environment; the classes with the same names in ``refit_env.envs.wrappers.vector`` wrap a
vector environment, as in Gymnasium. They combine: observation wrappers at any level, ``LowRankAction`` over
``ResidualAction``.
"""

from refit_env.envs.wrappers.factor_observation import FactorObservation
from refit_env.envs.wrappers.low_rank_action import LowRankAction
from refit_env.envs.wrappers.potential_shaping import PotentialShaping
from refit_env.envs.wrappers.residual_action import ResidualAction
from refit_env.envs.wrappers.scoring import chain_scorer
from refit_env.envs.wrappers.topk_observation import TopKObservation

__all__ = [
    "FactorObservation",
    "LowRankAction",
    "PotentialShaping",
    "ResidualAction",
    "TopKObservation",
    "chain_scorer",
]
