"""Weighted sums of rewards.

Letters: B users in the batch, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from refit_env.rewards.base import Reward, RewardContext


class Mix(Reward):
    """A weighted sum of rewards, as in ``{"racs": 1.0, "coverage": 0.1}``; its terms are the parts' values."""

    def __init__(self, context: RewardContext, rewards: Mapping[str, tuple[Reward, float]]) -> None:
        """Keep the rewards and their weights by name."""
        super().__init__(context)
        self.rewards = dict(rewards)
        self.term_names = tuple(rewards)

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Each part on the same lists."""
        terms = {name: reward(scores, users, lists) for name, (reward, _) in self.rewards.items()}
        weighted = [weight * terms[name] for name, (_, weight) in self.rewards.items()]
        return torch.stack(weighted).sum(0), terms

    def parts(self) -> list[tuple[Reward, float]]:
        """The rewards with their weights."""
        return list(self.rewards.values())
