"""Weighted sums of rewards.

Letters: B users in the batch, I items, K list length, U users of the data set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from refit_env.rewards.base import Reward, weighted_sum
from refit_env.rewards.context import RewardContext
from refit_env.rewards.relevance import common


class Mix(Reward):
    """A weighted sum of rewards, for example ``{"racs": 1.0, "coverage": 0.1}``.

    Its terms are the parts' values by name, and the terms of a part with several, for example ``racs/n_k``.
    """

    def __init__(self, context: RewardContext, rewards: Mapping[str, tuple[Reward, float]]) -> None:
        """Set the rewards and their weights by name; ValueError if a weight is not finite."""
        super().__init__(context)
        self.rewards = dict(rewards)
        names = []
        for name, (reward, weight) in self.rewards.items():
            if not math.isfinite(weight):
                raise ValueError(f"weight {weight} of reward {name!r} must be a finite number")
            names += [name, *_inner(name, reward)]
        self.term_names = tuple(names)

    @property
    def uses_lists(self) -> bool:
        """Whether a part uses the lists of all users."""
        return any(reward.uses_lists for reward, _ in self.rewards.values())

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute each part on the same lists."""
        terms = {}
        for name, (reward, _) in self.rewards.items():
            value, own = reward.compute(scores, users, lists)
            terms[name] = value.float()
            terms |= {full: own[inner] for full, inner in _inner(name, reward).items()}
        return weighted_sum([(weight, terms[name]) for name, (_, weight) in self.rewards.items()]), terms

    def parts(self) -> list[tuple[Reward, float]]:
        """Return the rewards with their weights."""
        return list(self.rewards.values())

    @property
    def selecting(self) -> npt.NDArray[np.int64] | None:
        """(m,) users whose validation items no part reads; None: no part reads any."""
        return common([reward.selecting for reward, _ in self.rewards.values()])

    def with_own_lists(self) -> Reward:
        """Return a mix whose parts that use lists have their own; the others are shared."""
        if not self.uses_lists:
            return self
        own = copy.copy(self)
        own.rewards = {name: (part.with_own_lists(), weight) for name, (part, weight) in self.rewards.items()}
        return own

    def set_lists(self, lists: Tensor) -> None:
        """Set the lists of all users (U, K) in every part."""
        for reward, _ in self.rewards.values():
            reward.set_lists(lists)


def _inner(name: str, reward: Reward) -> dict[str, str]:
    """Return the names of a part's terms in the mix, if it has several."""
    return {f"{name}/{inner}": inner for inner in reward.term_names} if len(reward.term_names) > 1 else {}
