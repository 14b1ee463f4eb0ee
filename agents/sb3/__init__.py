"""Stable-Baselines3 on the denoising environments: a policy, a vector environment, evaluation, logs."""

from agents.sb3.buffers import LeaveOneOutFlatRolloutBuffer, LeaveOneOutRolloutBuffer
from agents.sb3.callbacks import RankingEvalCallback, evaluate_model
from agents.sb3.chain_callback import ChainLogCallback
from agents.sb3.policies import DiffusionActorCriticPolicy
from agents.sb3.vec_env import GymVecEnv, to_sb3_vec_env

__all__ = [
    "ChainLogCallback",
    "DiffusionActorCriticPolicy",
    "GymVecEnv",
    "LeaveOneOutFlatRolloutBuffer",
    "LeaveOneOutRolloutBuffer",
    "RankingEvalCallback",
    "evaluate_model",
    "to_sb3_vec_env",
]
