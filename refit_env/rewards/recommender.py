"""A saved diffusion recommender as the reward: the pretrained model of the environment, or a better one.

A reward from the pretrained model alone contains no new information. In a mix with another reward model it
limits the errors of that one: the mean of two probabilities predicts better than either (a linear opinion
pool, Stone, Annals of Mathematical Statistics 1961), and the mix rewards the lists of that mean.

Letters: B users in the batch, I items.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from refit_env.backbones.latest import freeze
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.context import RewardContext
from refit_env.rewards.linear_models import ModelReward
from refit_env.settings import Positive, check_setting
from refit_env.utils.text import shown


class Recommender(ModelReward):
    """``recommender``: the probabilities softmax(scores / temperature) of a pretrained policy."""

    term = "recommender"

    def __init__(
        self, context: RewardContext, *, checkpoint: str | Path | None = None, temperature: float = 1.0
    ) -> None:
        """Load the policy, in float64, so that a reward does not depend on the rest of its batch.

        Args:
            context: data, relevance, K.
            checkpoint: folder that ``DiffusionPolicy.save`` wrote; None uses the environment's.
            temperature: divisor of the scores, above 0; 1 suits models trained by cross-entropy.

        Raises:
            ValueError: if no checkpoint is named, it is for another catalogue or task, or the temperature is
                out of range.
            CheckpointError: if the checkpoint is missing or damaged.
        """
        check_setting("temperature", temperature, Positive)
        folder = context.model if checkpoint is None else checkpoint
        if folder is None:
            raise ValueError(
                "reward 'recommender' needs a trained model, and this environment has none: "
                "pass reward_kwargs={'checkpoint': FOLDER}, a run folder of refit pretrain "
                "(--reward-options checkpoint=FOLDER)"
            )
        if not isinstance(folder, str | Path):
            raise SettingError("checkpoint", f"must be a folder, found {shown(folder)}")
        super().__init__(context)
        policy = DiffusionPolicy.load(folder, other_data=context.other_data)
        policy.scorer(context.dataset)  # raises an error for another catalogue, task or data set
        self.policy = freeze(policy.to(context.device).double().eval())
        self.temperature = float(temperature)
        seen = context.dataset.showing(context.relevance.visible)
        self._shown = self.policy.backbone.shown(seen, context.device)

    def predict(self, users: Tensor) -> Tensor:
        """Return the policy's probabilities of all items, from the visible row."""
        scores = self.policy.recommend_scores(users, self._shown(users))  # (B, I)
        return torch.softmax(scores / self.temperature, 1).float()
