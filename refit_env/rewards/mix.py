"""Weighted sums of rewards.

Letters: B users in the batch, I items, K list length, U users of the data set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.rewards.base import Reward, weighted_sum
from refit_env.rewards.context import RewardContext
from refit_env.rewards.relevance import common


class Ramp(NamedTuple):
    """A weight that changes linearly over the training, written ``"0->0.5"``."""

    first: float
    """At the beginning."""
    last: float
    """At the end."""

    def at(self, share: float) -> float:
        """Return the weight when a share of the training is done.

        Example:
            >>> Ramp(0.0, 0.5).at(0.5)
            0.25
        """
        return self.first + (self.last - self.first) * min(max(share, 0.0), 1.0)


def read_weight(text: str) -> Ramp | None:
    """Return the schedule that a text states; None for another text.

    Example:
        >>> read_weight("0->0.5"), read_weight("0.5")
        (Ramp(first=0.0, last=0.5), None)
    """
    first, arrow, last = text.partition("->")
    try:
        return Ramp(float(first), float(last)) if arrow else None
    except ValueError:
        return None


class Mix(Reward):
    """A weighted sum of rewards, for example ``{"racs": 1.0, "coverage": 0.1}``.

    A weight ``"0->0.5"`` rises linearly from 0 to 0.5 over the training of an agent; elsewhere it has its
    first value, and in ``refit evaluate`` its last. Its terms are the parts' values by name, and the terms of
    a part with several, for example ``racs/n_k``.
    """

    def __init__(self, context: RewardContext, rewards: Mapping[str, tuple[Reward, float | Ramp]]) -> None:
        """Set the rewards and their weights by name; ValueError if a weight is not finite."""
        super().__init__(context)
        self.ramps = {name: weight for name, (_, weight) in rewards.items() if isinstance(weight, Ramp)}
        self.rewards = {
            name: (reward, weight.first if isinstance(weight, Ramp) else weight)
            for name, (reward, weight) in rewards.items()
        }
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

    def lists_read(self, users: Tensor) -> Tensor | None:
        """Return the users (n,) whose lists a part reads; None if a part reads those of all users."""
        read = [reward.lists_read(users) for reward, _ in self.rewards.values()]
        known = [part for part in read if part is not None]
        return torch.unique(torch.cat(known)) if len(known) == len(read) else None

    def compute(self, scores: Tensor, users: Tensor, lists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute each part on the same lists."""
        terms = {}
        for name, (reward, _) in self.rewards.items():
            value, own = reward.computed(scores, users, lists)
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
        if not (self.uses_lists or self.scheduled):
            return self
        own = copy.copy(self)
        own.rewards = {name: (part.with_own_lists(), weight) for name, (part, weight) in self.rewards.items()}
        return own

    @property
    def scheduled(self) -> bool:
        """Whether a weight follows a schedule."""
        return bool(self.ramps)

    def set_progress(self, share: float) -> None:
        """Set the weights that follow a schedule to those when ``share`` of the training is done."""
        self.rewards = {
            name: (reward, self.ramps[name].at(share) if name in self.ramps else weight)
            for name, (reward, weight) in self.rewards.items()
        }

    def set_lists(self, lists: Tensor) -> None:
        """Set the lists of all users (U, K) in every part."""
        for reward, _ in self.rewards.values():
            reward.set_lists(lists)


def _inner(name: str, reward: Reward) -> dict[str, str]:
    """Return the names of a part's terms in the mix, if it has several."""
    return {f"{name}/{inner}": inner for inner in reward.term_names} if len(reward.term_names) > 1 else {}
