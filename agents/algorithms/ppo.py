"""PPO on the denoising chain: several clipped, importance-sampled updates for each batch of chains.

The preset ``ddpo`` is DDPO's form (DDPO_IS, arXiv 2305.13301): a ratio a step, a tight clip range on the mean
log-probability, no critic, since the reward is paid once and the user's other chains are the baseline. The
default gives each number of the last action its own ratio and its own counterfactual advantage
(``agents.gradients.counterfactual_advantage``): with thousands of numbers that is what makes one batch worth
several updates. The equation is in ``agents.algorithms.clipped_surrogate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from agents.algorithms.clipped_surrogate import ClippedSurrogate, SurrogateConfig
from agents.training.config import Rate, TrainerConfig, named_settings
from agents.training.step_subset import TrainSteps


@dataclass(frozen=True)
class PPOConfig(SurrogateConfig):
    """PPO fine-tuning. Defaults: measured best on validation, see docs/results.md."""

    learning_rate: Rate = 3e-5
    """Adam's step size."""
    train_steps: TrainSteps = "last:1"
    """``last:n`` or ``all`` (``random:n`` with credit ``episode``): the last step decides the list; running
    through the whole chain costs T times as much and was found to add little."""


PRESETS: dict[str, PPOConfig] = {
    "default": PPOConfig(),
    "ddpo": PPOConfig(
        credit="episode",
        baseline="group",
        users_per_batch=64,
        samples_per_user=8,
        clip_range=1e-4,
        epochs=1,
        minibatches=2,
        train_steps="all",
        advantage_clip=5.0,
        max_grad_norm=1.0,
        learning_rate=2e-5,
    ),
}
"""Named settings: ``default``; ``ddpo``, the form of arXiv 2305.13301's code."""


def preset(name: str) -> PPOConfig:
    """Return the settings called ``name``; a ValueError with a did-you-mean if there are none."""
    return named_settings(PRESETS, name)


class PPO(ClippedSurrogate):
    """Proximal policy optimisation of a diffusion policy.

    Example:
        >>> from agents.algorithms.ppo import PPO, PPOConfig
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> PPO(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "ppo"
    config_class: ClassVar[type[TrainerConfig]] = PPOConfig
    presets: ClassVar[Mapping[str, TrainerConfig]] = PRESETS
    config: PPOConfig
