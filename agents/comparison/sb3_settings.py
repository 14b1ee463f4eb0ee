"""Settings of the Stable-Baselines3 rows; nothing of Stable-Baselines3 is imported for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SB3Settings:
    """What a row's model and environments are made with."""

    num_envs: int = 128
    """Sub-environments that are stepped at once."""
    exploration_std: float = 0.05
    """Floor of the policy's standard deviation, in units of the scores."""
    rank: int = 0
    """Size of low-rank actions; 0 acts on the whole vector."""
    scale: float = 1.0
    """Size of a low-rank action of one, in the step's standard deviations."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the algorithm's class, by Stable-Baselines3's names."""


_ONE_CHAIN = {"n_steps": 4, "gamma": 1.0, "gae_lambda": 1.0}
"""A rollout is one chain of each sub-environment; its reward comes at the end, undiscounted."""

SB3_SETTINGS: dict[str, SB3Settings] = {
    "ppo": SB3Settings(
        arguments=_ONE_CHAIN
        | {
            "learning_rate": 1e-5,
            "batch_size": 128,
            "n_epochs": 1,
            "policy_kwargs": {"value_learning_rate": 1e-2},
            "clip_range": 0.2,
            "ent_coef": 0.0,
            "max_grad_norm": 10.0,
        }
    ),
    "a2c": SB3Settings(
        arguments=_ONE_CHAIN
        | {
            "learning_rate": 2e-5,
            "use_rms_prop": False,
            "normalize_advantage": True,
            "max_grad_norm": 10.0,
        }
    ),
    "trpo": SB3Settings(
        arguments=_ONE_CHAIN
        | {
            "learning_rate": 1e-3,
            "batch_size": 512,
            "target_kl": 1e-3,
            "n_critic_updates": 4,
            "cg_max_steps": 4,  # each is a pass over the rollout, with the network's second derivatives
        }
    ),
    "sac": SB3Settings(
        num_envs=64,
        rank=32,
        arguments={
            "learning_rate": 3e-4,
            "gamma": 1.0,
            "batch_size": 256,
            "buffer_size": 200_000,
            "learning_starts": 2_000,
            "train_freq": 4,
            "gradient_steps": 16,
        },
    ),
}
"""By the algorithm's name in ``agents.sb3.comparison``."""
