"""refit-env: reinforcement-learning environments on diffusion recommenders.

Importing the package registers its environment ids with Gymnasium and loads nothing heavy: PyTorch,
pandas and the data come with the first environment that is made.

Example:
    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = gym.make("ReFiT-Synthetic-v0")
    >>> observation, info = env.reset(seed=0)
    >>> sorted(observation)
    ['t', 'u']
"""

from __future__ import annotations

from refit_env.registration import EnvEntry, entry, env_ids, register_envs

__all__ = ["EnvEntry", "entry", "env_ids", "register_envs"]

register_envs()
