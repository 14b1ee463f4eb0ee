"""The maps of the wrappers: pure functions of batches, without environments.

Letters: B chains in a batch, D size of the diffused vector, C size of a context, A numbers of an action,
r rank, K entries shown, t the episode's step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from refit_env.evaluation.metrics import top_k
from refit_env.policy import DiffusionPolicy

Observations = dict[str, Tensor]
"""Name -> (B, ...)."""


@dataclass(frozen=True)
class ChainState:
    """The state of chains: the input of a policy.

    Attributes:
        u: (B, D) the current vectors.
        t: the step, one number where it is the same in all chains, else (B,) int64.
        context: (B, C) what the network is conditioned on, or None.
    """

    u: Tensor
    t: int | Tensor
    context: Tensor | None = None


class ActionMap(ABC):
    """A map from the actions of the wrapped environment to those of the environment below.

    Attributes:
        space: space of a single action.
    """

    space: gym.spaces.Box

    @abstractmethod
    def __call__(self, actions: Tensor, state: ChainState) -> Tensor:
        """Map actions (B, A) in a state of the chains to actions of the environment below."""


class ResidualMap(ActionMap):
    """next = mean(u, t) + scale * std_t * a, of a frozen policy.

    A next vector is clipped to the environment's bound, but not beyond the mean: a = 0 is the pretrained
    chain bit for bit, also where that is outside the box.
    """

    def __init__(self, policy: DiffusionPolicy, scale: float, bound: float, limit: float) -> None:
        """Make the map.

        Args:
            policy: frozen source of mean and std.
            scale: factor of the policy's std.
            bound: limit of the actions' box, in standard deviations.
            limit: limit of the diffused vectors' box.
        """
        self.policy, self.scale, self.limit = policy, positive("scale", scale), limit
        self.space = box(positive("bound", bound), policy.backbone.dim)

    def __call__(self, actions: Tensor, state: ChainState) -> Tensor:
        """Map residuals (B, D) to next vectors (B, D)."""
        with torch.no_grad():
            mean = self.policy.mean(state.u, state.t, state.context)  # (B, D)
            std = self.scale * self.policy.step_std(state.t)  # () or (B, 1)
            moved = mean + std * actions  # (B, D)
            moved = torch.minimum(moved, mean.clamp(min=self.limit))  # (B, D)
            return torch.maximum(moved, mean.clamp(max=-self.limit))  # (B, D)


class LowRankMap(ActionMap):
    """residual = sqrt(D / r) z F^T: z of unit variance becomes a residual of unit root-mean-square."""

    def __init__(self, factors: Tensor, bound: float) -> None:
        """Make the map of ``factors`` (D, r), whose columns are orthonormal, for z within ``bound``."""
        dim, rank = factors.shape
        # The expected square length of z F^T is r for every F; that of D numbers of size 1 is D.
        self.matrix = (factors.T * math.sqrt(dim / rank)).contiguous()  # (r, D)
        self.space = box(positive("bound", bound), rank)

    def __call__(self, actions: Tensor, state: ChainState) -> Tensor:
        """Map coordinates (B, r) to residuals (B, D)."""
        return actions @ self.matrix


class ObservationMap(ABC):
    """A map of observations that replaces ``u`` by smaller entries; the others stay."""

    @property
    @abstractmethod
    def spaces(self) -> dict[str, gym.spaces.Box]:
        """Spaces of the entries that replace u, of a single environment."""

    @abstractmethod
    def features(self, u: Tensor) -> Observations:
        """Return the entries that replace ``u`` (B, D)."""

    def __call__(self, observations: Observations) -> Observations:
        """Observations with the features in place of u, sorted by name as in their space."""
        rest = {name: value for name, value in observations.items() if name != "u"}
        shown = rest | self.features(observations["u"])
        return {name: shown[name] for name in sorted(shown)}

    def observation_space(self, below: gym.spaces.Dict) -> gym.spaces.Dict:
        """Return the space of the observations, from that of the environment below."""
        rest = {name: space for name, space in below.spaces.items() if name != "u"}
        return gym.spaces.Dict(rest | self.spaces)


class TopKMap(ObservationMap):
    """The k highest entries of u: their indices, scaled to 0..1, and values."""

    def __init__(self, k: Any, vector: gym.spaces.Box) -> None:
        """Make the map for vectors u of the space ``vector`` (D,).

        Raises:
            ValueError: if k is not a whole number in 1..D.
        """
        dim = vector.shape[0]
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= dim:
            raise ValueError(f"k={k!r} must be a whole number in 1..{dim}, the entries of u")
        self.k, self.dim = int(k), dim
        self.low, self.high = float(vector.low.min()), float(vector.high.max())

    @property
    def spaces(self) -> dict[str, gym.spaces.Box]:
        """``ids`` in 0..1 and ``values`` within the bounds of u, (K,) each."""
        ids = gym.spaces.Box(0.0, 1.0, (self.k,), np.float32)
        return {"ids": ids, "values": gym.spaces.Box(self.low, self.high, (self.k,), np.float32)}

    def features(self, u: Tensor) -> Observations:
        """Return ids and values (B, K) of the highest entries of ``u`` (B, D), descending, ties by id."""
        ids = top_k(u, self.k)  # (B, K)
        return {"ids": ids.to(u.dtype) / max(self.dim - 1, 1), "values": u.gather(1, ids)}


class FactorMap(ObservationMap):
    """The coordinates of u along the item factors."""

    def __init__(self, factors: Tensor, vector: gym.spaces.Box) -> None:
        """Make the map of ``factors`` (D, r) for vectors u of the space ``vector`` (D,)."""
        self.factors = factors
        limit = float(max(vector.high.max(), -vector.low.min()))
        # The largest coordinate of a u in the box, with a margin for rounding.
        self.reach = (limit * 1.001 * factors.abs().sum(0)).cpu().numpy()  # (r,)

    @property
    def spaces(self) -> dict[str, gym.spaces.Box]:
        """``factors`` (r,)."""
        return {"factors": gym.spaces.Box(-self.reach, self.reach, dtype=np.float32)}

    def features(self, u: Tensor) -> Observations:
        """Return the coordinates (B, r) of ``u`` (B, D)."""
        return {"factors": u @ self.factors}


def box(bound: float, size: int) -> gym.spaces.Box:
    """Return the symmetric float32 box (size,)."""
    return gym.spaces.Box(-bound, bound, (size,), np.float32)


def positive(name: str, value: Any) -> float:
    """Return the number as a float.

    Raises:
        ValueError: naming the argument, if it is not finite and above 0.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and value > 0)
    ):
        raise ValueError(f"{name}={value!r} must be a finite number above 0")
    return float(value)
