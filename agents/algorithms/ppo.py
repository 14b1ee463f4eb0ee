"""PPO on the denoising chain: several clipped, importance-sampled updates for each batch of chains.

The preset ``ddpo`` is DDPO's form (DDPO_IS, arXiv 2305.13301): one ratio a step, a small clip range on the
mean log-probability, no critic, since the reward is paid once and the user's other chains are the baseline.
The default gives each number of the last action its own ratio and its own counterfactual advantage
(``agents.gradients.counterfactual_advantage``): with thousands of numbers this makes several updates from one
batch useful. The equation is in ``agents.algorithms.clipped_surrogate``.
"""

from __future__ import annotations

from typing import ClassVar

from agents.algorithms.clipped_surrogate import ClippedSurrogate
from agents.algorithms.configs import PPOConfig
from agents.training.config import TrainerConfig


class PPO(ClippedSurrogate):
    """Proximal policy optimisation of a diffusion policy.

    Example:
        >>> from agents import PPO
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> PPO(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "ppo"
    config_class: ClassVar[type[TrainerConfig]] = PPOConfig
    config: PPOConfig
