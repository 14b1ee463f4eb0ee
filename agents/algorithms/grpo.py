"""GRPO on the denoising chain: advantages relative to the user's own group of chains.

The G chains of a user have the same start. The advantage of a chain is its reward minus the group's mean,
over the group's standard deviation (arXiv 2402.03300; Flow-GRPO, 2505.05470). It is used in the clipped
surrogate of ``agents.algorithms.clipped_surrogate``, with a KL to the pretrained policy if ``kl_weight`` > 0.
A group whose chains have equal rewards has advantages of 0 (``reward/zero_variance_share`` is the share of
such groups). ``baseline="group_mean"`` is Dr. GRPO (arXiv 2503.20783): without the division by the standard
deviation, which gives more weight to users whose rewards hardly differ.
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
