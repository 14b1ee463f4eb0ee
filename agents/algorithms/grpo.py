"""GRPO on the denoising chain: advantages relative to the user's own group of chains.

G chains of each user start alike; a chain's advantage is its reward less the group's mean, over the group's
deviation (arXiv 2402.03300; Flow-GRPO, 2505.05470), and the clipped surrogate of
``agents.algorithms.clipped_surrogate`` climbs it, held near the pretrained policy by a KL where
``kl_weight`` asks for it. Groups whose chains all earn the same have no advantage and drop out by themselves
(``reward/zero_variance_share`` tells how many). ``baseline="group_mean"`` is Dr. GRPO (arXiv 2503.20783): no
deviation, which favours users whose rewards hardly differ.
"""

from __future__ import annotations

from typing import ClassVar

from agents.algorithms.clipped_surrogate import ClippedSurrogate
from agents.algorithms.configs import GRPOConfig
from agents.training.config import TrainerConfig


class GRPO(ClippedSurrogate):
    """Group-relative policy optimisation of a diffusion policy."""

    name: ClassVar[str] = "grpo"
    config_class: ClassVar[type[TrainerConfig]] = GRPOConfig
    config: GRPOConfig
