"""refit-env: reinforcement-learning environments on diffusion recommenders.

Importing the package registers its environment ids with Gymnasium. PyTorch, pandas and the data are loaded
when the first environment is made.

Example:
    >>> import gymnasium as gym
    >>> import refit_env
    >>> env = gym.make("ReFiT-Synthetic-v0")
    >>> observation, info = env.reset(seed=0)
    >>> sorted(observation)
    ['t', 'u']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refit_env.registration import EnvEntry, entry, env_ids, register_envs

if TYPE_CHECKING:
    from refit_env.pretrained import load_policy

__all__ = ["EnvEntry", "entry", "env_ids", "load_policy", "register_envs"]

register_envs()


def __getattr__(name: str) -> Any:
    """Import ``load_policy`` at its first use, because it needs PyTorch."""
    if name == "load_policy":
        from refit_env.pretrained import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
