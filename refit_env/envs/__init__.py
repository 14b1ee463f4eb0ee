"""Gymnasium environments in which a diffusion recommender's denoising chain is the episode."""

from refit_env.envs.denoising import DenoisingEnv
from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.vector import DenoisingVectorEnv

__all__ = ["DenoisingEnv", "DenoisingProblem", "DenoisingVectorEnv"]
