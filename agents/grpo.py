"""GRPO on the denoising chain: advantages relative to the user's own group of chains.

G chains of each user start alike; a chain's advantage is its reward less the group's mean, over the group's
deviation (arXiv 2402.03300; Flow-GRPO, 2505.05470), and the clipped surrogate of ``agents.surrogate`` climbs
it, held near the pretrained policy by a KL where ``kl_weight`` asks for it. Groups whose chains all earn the
same have no advantage and drop out by themselves (``reward/zero_variance_share`` tells how many).
``baseline="group_mean"`` is Dr. GRPO (arXiv 2503.20783): no deviation, which favours users whose rewards
hardly differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agents.config import TrainerConfig
from agents.surrogate import ClippedSurrogate, SurrogateConfig

GROUP_BASELINES = ("group", "group_mean", "leave_one_out")
"""The baselines that are relative to a user's own chains."""


@dataclass(frozen=True)
class GRPOConfig(SurrogateConfig):
    """GRPO fine-tuning. Defaults: measured best on validation, see docs/results.md."""

    credit: str = "episode"
    """``episode``, as published; ``coordinate`` gives the numbers of the last action credits of their own."""
    baseline: str = "group"
    """``group`` (standardised), ``group_mean`` (Dr. GRPO) or ``leave_one_out``."""
    users_per_batch: int = 64
    """Users in a batch."""
    samples_per_user: int = 8
    """Chains in a group."""
    clip_range: float = 1e-4
    """c, on the ratio of mean log-probabilities."""
    epochs: int = 1
    """Passes over a batch."""
    advantage_clip: float = 5.0
    """Advantages are cut to -this .. this; 0 leaves them."""
    learning_rate: float = 2e-5
    """Adam's step size."""


class GRPO(ClippedSurrogate):
    """Group-relative policy optimisation of a diffusion policy."""

    name: ClassVar[str] = "grpo"
    config_class: ClassVar[type[TrainerConfig]] = GRPOConfig
    config: GRPOConfig

    def check_settings(self) -> None:
        """Refuse a baseline that knows no groups, too.

        Raises:
            ValueError: for a baseline that knows no groups, or another wrong setting.
        """
        super().check_settings()
        if self.config.baseline not in GROUP_BASELINES:
            raise ValueError(
                f"baseline={self.config.baseline!r}: GRPO's is one of {', '.join(GROUP_BASELINES)}; "
                "PPO takes the others"
            )
