"""GRPO on the denoising chain: advantages relative to the user's own group of chains.

G chains of each user start alike; a chain's advantage is its reward less the group's mean, over the group's
deviation (arXiv 2402.03300; Flow-GRPO, 2505.05470), and the clipped surrogate of
``agents.algorithms.clipped_surrogate`` climbs it, held near the pretrained policy by a KL where
``kl_weight`` asks for it. Groups whose chains all earn the same have no advantage and drop out by themselves
(``reward/zero_variance_share`` tells how many). ``baseline="group_mean"`` is Dr. GRPO (arXiv 2503.20783): no
deviation, which favours users whose rewards hardly differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from agents.algorithms.clipped_surrogate import ClippedSurrogate, SurrogateConfig
from agents.gradients.advantages import OF_A_GROUP
from agents.gradients.counterfactual_advantage import CREDITS
from agents.training.config import Batch, Passes, Rate, TrainerConfig
from refit_env.settings import OneOf


@dataclass(frozen=True)
class GRPOConfig(SurrogateConfig):
    """GRPO fine-tuning. Defaults: measured best on validation, see docs/results.md."""

    credit: Annotated[str, OneOf(CREDITS)] = "episode"
    """``episode``, as published; ``coordinate`` gives the numbers of the last action credits of their own."""
    baseline: Annotated[str, OneOf(OF_A_GROUP)] = "group"
    """``group`` (standardised), ``group_mean`` (Dr. GRPO) or ``leave_one_out``."""
    users_per_batch: Batch = 64
    """Users in a batch."""
    samples_per_user: Annotated[int, Meta(ge=2, le=100_000)] = 8
    """Chains in a group."""
    clip_range: Annotated[float, Meta(gt=0, lt=1)] = 1e-4
    """c, on the ratio of mean log-probabilities."""
    epochs: Passes = 1
    """Passes over a batch."""
    advantage_clip: Annotated[float, Meta(ge=0, description="0: no limit")] = 5.0
    """Advantages are cut to -this .. this; 0 leaves them."""
    learning_rate: Rate = 2e-5
    """Adam's step size."""


class GRPO(ClippedSurrogate):
    """Group-relative policy optimisation of a diffusion policy."""

    name: ClassVar[str] = "grpo"
    config_class: ClassVar[type[TrainerConfig]] = GRPOConfig
    config: GRPOConfig
