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

    @property
    def group_size(self) -> int:
        """Chains of one user side by side, as the rollout buffer's arguments have it; 1 without them."""
        return int((self.arguments.get("rollout_buffer_kwargs") or {}).get("group_size", 1))


_ONE_CHAIN = {
    "n_steps": 4,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "rollout_buffer_kwargs": {"group_size": 8},
}
"""A rollout is one chain of each sub-environment, 8 of a user; its reward comes at the end, undiscounted."""

SB3_SETTINGS: dict[str, SB3Settings] = {
    "ppo": SB3Settings(
        num_envs=512,
        arguments=_ONE_CHAIN
        | {
            "learning_rate": 5e-5,
            "batch_size": 2048,  # one step on a rollout of 512 chains
            "n_epochs": 1,
            "clip_range": 0.2,
            "ent_coef": 0.0,
            "max_grad_norm": 10.0,
        },
    ),
    "a2c": SB3Settings(
        arguments=_ONE_CHAIN
        | {
            "learning_rate": 5e-5,
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
            "cg_max_steps": 2,  # each is a pass over the rollout, with the network's second derivatives
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
"""By the algorithm's name in ``agents.sb3.experiment``."""
