"""Stable-Baselines3 on the denoising environments: a policy, a vector environment, an evaluation."""

from agents.sb3.policies import DiffusionActorCriticPolicy
from agents.sb3.vec_env import GymVecEnv, to_sb3_vec_env

__all__ = ["DiffusionActorCriticPolicy", "GymVecEnv", "to_sb3_vec_env"]
